/** The run behind the map, and the orders that the page can give it. */

import {
  type CommandName,
  estimateOf,
  type Meta,
  type Model,
  queuedOf,
  type Status,
  say,
  statusOf,
} from "../protocol.ts";
import type { Connection } from "./connection.ts";

export class Run {
  private readonly model: Model;
  private readonly connection: Connection;
  private readonly meta: Meta;

  constructor(model: Model, connection: Connection, meta: Meta) {
    this.model = model;
    this.connection = connection;
    this.meta = meta;
  }

  /** A saved page runs nothing, whatever its run did when it was saved. */
  get status(): Status {
    const status = statusOf(this.model);
    const isActive = status === "running" || status === "paused";
    return isActive && this.connection.isSaved ? "stopped" : status;
  }

  /** What the run will take, in the kernel's words; empty before the probe. */
  get estimate(): string {
    return estimateOf(this.model);
  }

  /** Whether a run can be started: there are models, and perhaps a kernel that has them. */
  get canRun(): boolean {
    return !this.connection.isSaved && this.meta.computes;
  }

  /** Whether layers were chosen that this run computes at its end, or not at all. */
  get isQueued(): boolean {
    return this.status === "running" && queuedOf(this.model);
  }

  /** Whether the loader is used up by this run, so that nothing can follow it. */
  get isReadOnce(): boolean {
    return this.meta.isReadOnce;
  }

  command(name: CommandName): void {
    this.connection.ask(say.command(name));
  }
}
