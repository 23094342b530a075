/** Places at which a test has the server killed, to see that nothing is lost there. */
export type FailPoint = (typeof failPoints)[number];

export const failPoints = [
  "intent_recorded",
  "forked",
  "identity_recorded",
  "released",
  "start_recorded",
  "stop_recorded",
  "stop_signalled",
  "ended",
  "exit_recorded",
  "adopting",
  "promoted",
  "retiring",
] as const;
