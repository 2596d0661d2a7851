/** Changes to what the page knows, and who is told of them. */

import type { Message } from "../protocol.ts";

export type Change =
  | "frame"
  | "trees"
  | "layers"
  | "focus"
  | "pins"
  | "status"
  | "message"
  | "tolerance"
  | "colors"
  | "theme";

/**
 * The views of a session. They draw synchronously when told of a change; one that cannot
 * must not keep the others, and the kernel's next frame, waiting.
 */
export class Changes {
  private readonly listeners = new Set<(change: Change) => void>();

  get views(): number {
    return this.listeners.size;
  }

  subscribe(listener: (change: Change) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  tell(change: Change): void {
    for (const listener of this.listeners) {
      try {
        listener(change);
      } catch (error) {
        reportError(error);
      }
    }
  }

  close(): void {
    this.listeners.clear();
  }
}

/** The message in the head of each view: an error, or a note. */
export class Messages {
  current: Message;
  private readonly changes: Changes;

  constructor(changes: Changes, current: Message) {
    this.changes = changes;
    this.current = current;
  }

  show(message: Message): void {
    this.current = message;
    this.changes.tell("message");
  }

  error(text: string): void {
    this.show({ kind: "error", text });
  }

  note(text: string): void {
    this.show({ kind: "note", text });
  }

  dismiss(): void {
    this.show({ kind: "", text: "" });
  }
}

/** For this long the page's own choice wins over what the kernel echoes. */
export const ECHO_MS = 1500;

/** How a shared value is read from the kernel's traits, sent to it, and announced. */
export interface Binding<T> {
  read(): T;
  send(value: T, before: T): void;
  tell(): void;
}

/** A value that both the page and the kernel set. */
export class Shared<T> {
  value: T;
  private readonly binding: Binding<T>;
  private setAt = Number.NEGATIVE_INFINITY;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(binding: Binding<T>) {
    this.binding = binding;
    this.value = binding.read();
  }

  set(value: T): void {
    const before = this.value;
    this.setAt = Date.now();
    this.value = value;
    this.binding.send(value, before);
    this.binding.tell();
  }

  /** Takes the kernel's value, unless it may echo a choice that others have followed. */
  kernelChanged(): void {
    clearTimeout(this.timer);
    const wait = ECHO_MS - (Date.now() - this.setAt);
    if (wait > 0) this.timer = setTimeout(() => this.kernelChanged(), wait);
    else {
      this.value = this.binding.read();
      this.binding.tell();
    }
  }

  /** Takes the kernel's value at once: it has refused what the page has sent. */
  refused(): void {
    this.setAt = Number.NEGATIVE_INFINITY;
    this.kernelChanged();
  }

  close(): void {
    clearTimeout(this.timer);
  }
}
