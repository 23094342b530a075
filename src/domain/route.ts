/** A public prefix on the proxy and where it leads, with what is known of the proxy's side. */
export interface Route {
  readonly service: string;
  readonly serviceUid: string;
  /** `/services/NAME/`. */
  readonly prefix: string;
  /** The origin that requests are forwarded to, path unchanged. */
  readonly target: string;
  readonly state: RouteState;
  /** Raised by each change of what is wanted. */
  readonly generation: number;
  /** What the proxy was last seen to have; 0: nothing. */
  readonly programmedGeneration: number;
  readonly proxy: string;
  readonly reason: string;
  readonly message: string;
  readonly transitionTime: Date;
  readonly confirmTime: Date | undefined;
}

/** pending: wanted, unconfirmed. degraded: an older form, or the proxy cannot be reached. blocked: needs a person. removing: removal unconfirmed. */
export type RouteState = "pending" | "programmed" | "degraded" | "blocked" | "removing";
