// What a request may ask for at most. Counts and lengths that no deployment needs to change; those that it may are in config.ts.

export const LIMITS = {
  n: 4,
  stopStrings: 4,
  stopChars: 128,
  stopTokenIds: 128,
  topLogprobs: 20,
  logitBias: 300,
  messages: 512,
  contentParts: 256,
  prompts: 128,
  /** Prompts times n of one completions request. */
  choices: 128,
  modelChars: 256,
  userChars: 512,
  saltChars: 128,
  jsonDepth: 32,
  wsFrameBytes: 64 * 1024,
  wsFragments: 64,
  wsRequestsPerSocket: 64,
  wsIdChars: 128,
} as const
