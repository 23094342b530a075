/** What one client may take of the server. Every value has a default; sizes in bytes. */
export interface Limits {
  /** The largest request or response message, after decompression. */
  readonly messageBytes: number;
  /** Open HTTP/2 streams of one connection. */
  readonly streamsPerConnection: number;
  /** Memory that one HTTP/2 connection may hold, in MB. Too little and stalled watchers of a proxy's shared connection kill the healthy ones. */
  readonly sessionMemoryMb: number;
  /** Connections of one listener. */
  readonly connections: number;
  /** Streaming calls (watches, logs) of one principal, and of all. */
  readonly streamsPerPrincipal: number;
  readonly streams: number;
  /** How long a new connection may take until its first byte, and a request until its headers and its body are complete. */
  readonly firstByteMs: number;
  readonly headersMs: number;
  readonly requestMs: number;
  /** What is still read of an HTTP/1.1 request that was answered before its body was complete, and for how long. */
  readonly restBytes: number;
  readonly restMs: number;
  /** How long a client may take to read why its stream was ended, before the stream is cut. */
  readonly lastWordsMs: number;
  /** How long nothing may move of what waits for the client of a watch, before the watch is ended. */
  readonly stalledMs: number;
  /** A connection is pinged so often, and dropped if the answer takes longer than this. */
  readonly pingEveryMs: number;
  readonly pingTimeoutMs: number;
  /** A connection is asked to go (GOAWAY) at this age, give or take a tenth, and dropped after the grace. */
  readonly connectionAgeMs: number;
  readonly connectionAgeGraceMs: number;
  /** An HTTP/1.1 connection is closed after so long without a request. */
  readonly keepAliveMs: number;
}

export const defaultLimits: Limits = {
  messageBytes: 4 * 1024 * 1024,
  streamsPerConnection: 1000,
  sessionMemoryMb: 256,
  connections: 10_000,
  streamsPerPrincipal: 1000,
  streams: 10_000,
  firstByteMs: 10_000,
  headersMs: 20_000,
  requestMs: 60_000,
  restBytes: 16 * 1024 * 1024,
  restMs: 5_000,
  lastWordsMs: 5_000,
  stalledMs: 30_000,
  pingEveryMs: 30_000,
  pingTimeoutMs: 10_000,
  connectionAgeMs: 30 * 60_000,
  connectionAgeGraceMs: 5 * 60_000,
  keepAliveMs: 75_000,
};
