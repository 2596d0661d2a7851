/** The mouse button, while it is down: nothing may move under a click. */

/** Who holds the button for longer drags, and wants to see the run go on. */
const CLICK_MS = 1000;

export class Press {
  private isDown = false;
  private readonly waiting = new Map<unknown, () => void>();
  private timer: ReturnType<typeof setTimeout> | undefined;

  /** Watches the button over an element until the signal. */
  constructor(root: HTMLElement, signal: AbortSignal) {
    const listening = { signal, capture: true };
    root.addEventListener("pointerdown", () => this.pressed(), listening);
    for (const event of ["pointerup", "pointercancel"])
      globalThis.addEventListener(event, () => this.released(), listening);
    signal.addEventListener("abort", () => this.settle());
  }

  /** Acts now or, while the button is down, afterwards; once for each key. */
  act(key: unknown, action: () => void): void {
    if (this.isDown) this.waiting.set(key, action);
    else action();
  }

  /** Resolves as soon as the button is up. */
  up(): Promise<void> {
    return new Promise((resolve) => this.act(resolve, resolve));
  }

  private pressed(): void {
    this.isDown = true;
    this.settleAfter(CLICK_MS);
  }

  /** The click comes after this event: what has waited waits for its handlers, too. */
  private released(): void {
    if (!this.isDown) return;
    this.isDown = false;
    this.settleAfter(0);
  }

  private settleAfter(ms: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(), ms);
  }

  private settle(): void {
    clearTimeout(this.timer);
    this.isDown = false;
    const actions = [...this.waiting.values()];
    this.waiting.clear();
    for (const action of actions) {
      try {
        action();
      } catch (error) {
        reportError(error);
      }
    }
  }
}
