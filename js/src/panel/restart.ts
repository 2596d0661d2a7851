/** Starting over, which asks for confirmation before much work is lost. */

import type { Session } from "../state/session.ts";
import { clock } from "../ui/format.ts";

const MUCH_WORK_SECONDS = 30;
const CONFIRM_MS = 5000;

export class Restart {
  private readonly session: Session;
  private readonly redraw: () => void;
  private isAsking = false;
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** `redraw` shows the label of the button again. */
  constructor(session: Session, redraw: () => void) {
    this.session = session;
    this.redraw = redraw;
  }

  label(words: string): string {
    return this.isAsking ? `Discard ${clock(this.seconds)}?` : words;
  }

  click(): void {
    const { run } = this.session;
    const isActive = run.status === "running" || run.status === "paused";
    if (isActive && this.seconds > MUCH_WORK_SECONDS && !this.isAsking) this.ask();
    else {
      this.forget();
      run.command("restart");
    }
  }

  /** The next click asks again. */
  forget(): void {
    clearTimeout(this.timer);
    if (!this.isAsking) return;
    this.isAsking = false;
    this.redraw();
  }

  private ask(): void {
    this.isAsking = true;
    this.timer = setTimeout(() => this.forget(), CONFIRM_MS);
    this.redraw();
  }

  private get seconds(): number {
    return this.session.frames.shown?.frame.seconds ?? 0;
  }
}
