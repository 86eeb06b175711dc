"""A company's day with one server: keys, a limit, corrections, a batch, tuning, the tuned model, and who used what.

    python examples/operate/company_day.py

README.md beside it tells the story. Everything it makes is in --out.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

SUPPORT = Path(__file__).resolve().parents[1] / "support"
LOOK_SECONDS = 0.5


def main() -> None:
    options = _options()
    out, model = options.out, options.model
    out.mkdir(parents=True, exist_ok=False)
    ledger = ("--ledger", str(out / "ledger.sqlite"))
    tickets = _tickets("train", options.tickets)
    unseen = _tickets("test", options.tickets)

    heading("The operator makes a key for each team")
    support_key = landrace("keys", "create", "helpdesk", "--team", "support", *ledger).strip()
    limit = ("--requests-per-minute", "20")
    reports_key = landrace("keys", "create", "nightly", "--team", "reports", *limit, *ledger).strip()
    landrace("keys", "list", *ledger)

    serve = ("--data", str(out / "data"), "--keep-conversations", "--price-per-hour", "0.10", "--port", "0", *ledger)
    with server(model, *serve, log=out / "server.log") as url:
        support = openai.OpenAI(base_url=url, api_key=support_key)
        reports = openai.OpenAI(base_url=url, api_key=reports_key, max_retries=0)

        heading("Support asks what each ticket is about, and says what it should have been")
        before = 0
        for ticket in tickets:
            answer = ask(support, model, ticket["text"], store=True)
            before += answer_of(answer) == ticket["intent"]
            rate(support, answer, ticket["intent"])
        print(f"{before} of {len(tickets)} were right.")

        heading("Reports asks more than its key may")
        meet_limit(reports, model)

        heading("Its batch runs overnight, when nobody waits")
        answered = run_batch(reports, model, [ticket["text"] for ticket in unseen], out / "calls.jsonl")
        right = sum(said == ticket["intent"] for said, ticket in zip(answered, unseen, strict=True))
        print(f"{right} of {len(unseen)} tickets that nobody has corrected were right.")

        heading("What support said becomes training rows")
        rows = out / "rows.jsonl"
        landrace("dataset", "export", "--out", str(rows), *ledger)

        heading("Support tunes the model on them, over the API")
        tuned = tune(support, model, rows, options.epochs)

        heading("The tuned model answers beside the other one")
        right = sum(answer_of(ask(support, tuned, ticket["text"])) == ticket["intent"] for ticket in unseen)
        print(f"{right} of the same {len(unseen)} tickets were right.")

    heading("Who used what")
    landrace("usage", "--by", "team", *ledger)
    landrace("usage", "--by", "team,kind,adapter", *ledger)


def ask(client: openai.OpenAI, model: str, text: str, *, store: bool = False) -> Any:
    """`store`: this conversation may be kept to learn from."""
    return client.chat.completions.create(
        model=model, messages=messages(text), max_tokens=12, temperature=0, store=store
    )


def messages(text: str) -> list[Any]:
    names = ", ".join(json.loads((SUPPORT / "task.json").read_text(encoding="utf-8"))["labels"])
    return [{"role": "user", "content": f"{text}\n\nWhat is this about? One word of: {names}."}]


def answer_of(reply: Any) -> str:
    return str(reply.choices[0].message.content).strip().lower().rstrip(".")


def rate(client: openai.OpenAI, reply: Any, right: str) -> None:
    """A thumb up, or a thumb down with a correction."""
    said: dict[str, str] = {"rating": "up"} if answer_of(reply) == right else {"rating": "down", "correction": right}
    client.post("/feedback", body={"response_id": reply.id, **said}, cast_to=object)


def meet_limit(client: openai.OpenAI, model: str) -> None:
    """Asks until the server says to wait; waits as long as it says."""
    for n in range(1, 100):
        try:
            ask(client, model, "Hello")
        except openai.RateLimitError as error:
            seconds = int(error.response.headers["retry-after"])
            print(f"Call {n}: status {error.status_code}, {error.body['message']}")  # type: ignore[index]
            time.sleep(seconds)
            ask(client, model, "Hello")
            print(f"After {seconds} s it is answered again.")
            return


def run_batch(client: openai.OpenAI, model: str, texts: Sequence[str], file: Path) -> list[str]:
    """The answers, in order."""
    url = "/v1/chat/completions"
    bodies = [{"model": model, "messages": messages(text), "max_tokens": 12, "temperature": 0} for text in texts]
    lines = [{"custom_id": str(n), "method": "POST", "url": url, "body": body} for n, body in enumerate(bodies)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    client = client.with_options(max_retries=10)  # this key is limited: the library waits as it is told to
    with file.open("rb") as stream:
        calls = client.files.create(file=stream, purpose="batch")
    batch = client.batches.create(input_file_id=calls.id, endpoint=url, completion_window="24h")
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(4)
        batch = client.batches.retrieve(batch.id)
    if batch.status != "completed" or batch.output_file_id is None:
        raise SystemExit(f"The batch has {batch.status}: {batch.errors}")
    entries = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    told = {entry["custom_id"]: entry["response"]["body"]["choices"][0]["message"]["content"] for entry in entries}
    return [told[str(n)].strip().lower().rstrip(".") for n in range(len(texts))]


def tune(client: openai.OpenAI, model: str, rows: Path, epochs: int) -> str:
    """The name of the tuned model, which is served as soon as the job has ended."""
    with rows.open("rb") as stream:
        file = client.files.create(file=stream, purpose="fine-tune")
    how: Any = {"n_epochs": epochs, "batch_size": 8, "learning_rate_multiplier": 5.0}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": how}}
    jobs = client.fine_tuning.jobs
    job = jobs.create(model=model, training_file=file.id, suffix="tickets", method=method, seed=0)
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(LOOK_SECONDS)
        job = jobs.retrieve(job.id)
    if job.fine_tuned_model is None:
        raise SystemExit(f"The job has {job.status}: {job.error}")
    steps = [event for event in jobs.list_events(job.id, limit=100).data if event.type == "metrics"]
    for event in (steps[-1], steps[0]):
        print(event.message)
    print(f"It is served as {job.fine_tuned_model}.")
    return job.fine_tuned_model


@contextmanager
def server(model: str, *arguments: str, log: Path) -> Iterator[str]:
    """The address of a server's API, while the block lasts."""
    command = ["serve", model, *arguments]
    heading("The server starts")
    print(f"$ landrace {shlex.join(command)}")
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen([sys.executable, "-m", "landrace", *command], stderr=stream)
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        found = re.search(r"at (https?://\S+/v1)", log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        time.sleep(LOOK_SECONDS)
    raise SystemExit(log.read_text(encoding="utf-8"))


def landrace(*arguments: str) -> str:
    """Runs a command, shows what it prints, and returns it. A key's secret is not shown."""
    print(f"$ landrace {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "landrace", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    if arguments[:2] != ("keys", "create"):
        print(done.stdout, end="")
    return done.stdout


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _tickets(split: str, count: int) -> list[dict[str, str]]:
    lines = (SUPPORT / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [ticket for ticket in map(json.loads, lines) if ticket["language"] == "en"][:count]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="the model that is served (smollm2)")
    parser.add_argument("--out", type=Path, default=Path("runs/company-day"), help="a new folder (runs/company-day)")
    parser.add_argument("--tickets", type=int, default=36, help="how many are corrected (36)")
    parser.add_argument("--epochs", type=int, default=6, help="passes of the tuning over them (6)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
