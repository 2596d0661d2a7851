/** The run behind the map, and the orders that the page can give it. */

import {
  type CommandName,
  estimateOf,
  type Model,
  type Status,
  say,
  statusOf,
} from "../protocol.ts";
import type { Connection } from "./connection.ts";

export class Run {
  private readonly model: Model;
  private readonly connection: Connection;
  private readonly computes: boolean;

  constructor(model: Model, connection: Connection, computes: boolean) {
    this.model = model;
    this.connection = connection;
    this.computes = computes;
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
    return !this.connection.isSaved && this.computes;
  }

  command(name: CommandName): void {
    this.connection.ask(say.command(name));
  }
}
