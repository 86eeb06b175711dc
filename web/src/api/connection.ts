// Calls with the user's key. Addresses are relative to the page, so that it works behind a proxy's path.
import { forgetKey, key } from "./key";

/** What the server answered instead of what was asked. */
export class ApiFailure extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

export class Connection {
  /** `askKey` returns whether the user gave a key; `refused`: whether the server did not take the last one. */
  constructor(private readonly askKey: (refused: boolean) => Promise<boolean>) {}

  protected async call(path: string, init: RequestInit): Promise<Response> {
    for (;;) {
      const response = await this.send(path, init);
      if (response.ok) return response;
      if (response.status !== 401) throw await failureOf(response);
      const refused = key() !== null;
      forgetKey();
      if (!(await this.askKey(refused))) throw new ApiFailure(401, "The server asks for a key.");
    }
  }

  protected send(path: string, init: RequestInit): Promise<Response> {
    const secret = key();
    const headers = { ...(init.headers as Record<string, string>), ...(secret ? { Authorization: `Bearer ${secret}` } : {}) };
    return fetch(path, { ...init, headers, credentials: "same-origin" });
  }
}

async function failureOf(response: Response): Promise<ApiFailure> {
  const wait = response.headers.get("Retry-After");
  const later = response.status === 429 && wait ? ` Try again in ${wait} seconds.` : "";
  try {
    const { error } = (await response.json()) as { error: { message: string } };
    return new ApiFailure(response.status, error.message + later);
  } catch {
    return new ApiFailure(response.status, `The server answered with status ${response.status}.${later}`);
  }
}
