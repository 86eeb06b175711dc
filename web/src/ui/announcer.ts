import { h } from "../dom";

const PAUSE = 2500;
const MOST = 600;

/** Tells screen readers what happened: in whole sentences, one message every few seconds, so that a stream does not
 * flood them. */
export class Announcer {
  readonly root = h("div", { class: "unseen", "aria-live": "polite", "aria-atomic": true });
  private waiting = "";
  private timer = 0;

  say(text: string): void {
    this.waiting = `${this.waiting} ${text}`.trim();
    if (!this.timer) this.timer = window.setTimeout(this.speak, PAUSE / 5);
  }

  private readonly speak = (): void => {
    this.timer = 0;
    if (!this.waiting) return;
    this.root.textContent = this.waiting.length > MOST ? `${this.waiting.slice(0, MOST)} …` : this.waiting;
    this.waiting = "";
    this.timer = window.setTimeout(this.speak, PAUSE);
  };
}
