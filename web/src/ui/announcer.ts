import { h } from "../dom";

const PAUSE = 2500;
const MOST = 600;

/** Tells screen readers what happened: in whole sentences, one message every few seconds, so that a stream does not
 * flood them. */
export class Announcer {
  readonly root = h("div", { class: "unseen", "aria-live": "polite", "aria-atomic": true });
  private answer = "";
  private events = "";
  private timer = 0;

  /** A part of an answer; of a long one only the beginning is read out, for the rest is there to be read. */
  read(text: string): void {
    this.answer = `${this.answer} ${text}`.trim();
    this.wait(PAUSE / 5);
  }

  /** Something that happened. */
  say(text: string): void {
    this.events = `${this.events} ${text}`.trim();
    this.wait(PAUSE / 5);
  }

  private wait(milliseconds: number): void {
    if (!this.timer) this.timer = window.setTimeout(this.speak, milliseconds);
  }

  private readonly speak = (): void => {
    this.timer = 0;
    if (!this.answer && !this.events) return;
    const answer = this.answer.length > MOST ? `${this.answer.slice(0, MOST)} …` : this.answer;
    this.root.textContent = `${answer} ${this.events}`.trim();
    this.answer = this.events = "";
    this.wait(PAUSE);
  };
}
