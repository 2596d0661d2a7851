/** The kernel behind the page: what is sent to it, and whether it still answers. */

import {
  type Frame,
  isLive,
  isSaved,
  type Model,
  messageOf,
  say,
} from "../protocol.ts";
import { errorText } from "../ui/format.ts";
import type { Changes, Messages } from "./changes.ts";

export const ANSWER_WITHIN_MS = 4000;
/** Leaves time for a first view, so that one message usually announces both. */
const READY_AFTER_MS = 300;
/** Models learn of a lost kernel one after the other. */
const SETTLED_MS = 50;

const NO_ANSWER =
  "No answer from the kernel. It may be busy or gone: run the cell again to compute. " +
  "The map stays as it is and can still be read and clicked.";
const NO_KERNEL =
  "No answer from the kernel: it was restarted or shut down. Run the cell again to " +
  "compute. The map stays as it is and can still be read and clicked.";

export class Connection {
  readonly page = pageId();
  isConnected = true;
  /** Whether there has never been a kernel: the page shows what was saved. */
  isSaved = false;
  private readonly model: Model;
  private readonly changes: Changes;
  private readonly messages: Messages;
  private readonly bokehWaiters = new Set<(gz: Uint8Array<ArrayBuffer>) => void>();
  private answerTimer: ReturnType<typeof setTimeout> | undefined;
  private readyTimer: ReturnType<typeof setTimeout> | undefined;
  private settleTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(model: Model, changes: Changes, messages: Messages) {
    this.model = model;
    this.changes = changes;
    this.messages = messages;
    this.readyTimer = setTimeout(() => this.sayReady(), READY_AFTER_MS);
    void this.findSavedPage();
  }

  close(): void {
    clearTimeout(this.answerTimer);
    clearTimeout(this.readyTimer);
    clearTimeout(this.settleTimer);
  }

  send(content: unknown): void {
    try {
      this.model.send(content);
    } catch (error) {
      // Once the kernel is known to be gone, each click need not say so again.
      if (this.isConnected)
        this.messages.error(`The kernel cannot be reached. ${errorText(error)}`);
    }
  }

  sayReady(): void {
    clearTimeout(this.readyTimer);
    this.send(say.ready(this.page, this.changes.views));
  }

  acknowledge(frame: Frame): void {
    this.send(say.ack(this.page, frame, this.changes.views));
  }

  /** Sends what the kernel answers at once, or else reports its silence. */
  ask(content: unknown): void {
    this.send(content);
    clearTimeout(this.answerTimer);
    if (this.isConnected) {
      this.answerTimer = setTimeout(() => this.reportSilence(), ANSWER_WITHIN_MS);
    } else this.reportSilence();
  }

  /** To be called with each sign of life from the kernel. */
  answered(): void {
    clearTimeout(this.answerTimer);
    const { text } = this.messages.current;
    if (text === NO_ANSWER || text === NO_KERNEL)
      this.messages.show(messageOf(this.model));
  }

  /** Asks the kernel for BokehJS: the last resort when the shared model has none. */
  requestBokeh(version: string, timeout: number): Promise<Uint8Array<ArrayBuffer>> {
    return new Promise((resolve, reject) => {
      const waiter = (gz: Uint8Array<ArrayBuffer>) => {
        clearTimeout(timer);
        resolve(gz);
      };
      const timer = setTimeout(() => {
        this.bokehWaiters.delete(waiter);
        reject(new Error(`The kernel did not send BokehJS ${version}.`));
      }, timeout);
      this.bokehWaiters.add(waiter);
      this.send(say.needBokeh(version));
    });
  }

  bokehArrived(gz: Uint8Array<ArrayBuffer>): void {
    for (const waiter of this.bokehWaiters) waiter(gz);
    this.bokehWaiters.clear();
  }

  /** To be called when the front end says that a kernel has come or gone. */
  kernelChanged(): void {
    clearTimeout(this.settleTimer);
    this.settleTimer = setTimeout(() => void this.findKernel(), SETTLED_MS);
  }

  private async findKernel(): Promise<void> {
    const live = await isLive(this.model);
    if (live === (this.isConnected && !this.isSaved)) return;
    this.isConnected = live;
    this.isSaved = false;
    if (live) this.answered();
    else this.reportSilence();
    this.changes.tell("status");
  }

  /** A saved page never had a kernel, so it does not complain about a missing one. */
  private async findSavedPage(): Promise<void> {
    this.isSaved = await isSaved(this.model);
    if (this.isSaved) this.changes.tell("status");
  }

  private reportSilence(): void {
    this.messages.error(this.isConnected ? NO_ANSWER : NO_KERNEL);
  }
}

function pageId(): string {
  return Math.random().toString(36).slice(2, 10);
}
