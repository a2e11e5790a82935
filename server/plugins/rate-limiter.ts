// Requests a minute of each key: a token bucket on the monotonic clock.

import { ApiError, retryHeaders } from '../errors.js'
import type { ApiKey } from '../keys.js'

const MINUTE_MS = 60_000

export class RateLimiter {
  readonly #buckets = new Map<string, { tokens: number; at: number }>()

  /** @throws ApiError 429 with the time until the next token. */
  take({ id, requestsPerMinute }: ApiKey): void {
    if (requestsPerMinute === undefined) return
    const now = performance.now()
    const bucket = this.#buckets.get(id) ?? { tokens: requestsPerMinute, at: now }
    const tokens = Math.min(requestsPerMinute, bucket.tokens + ((now - bucket.at) * requestsPerMinute) / MINUTE_MS)
    if (tokens < 1) {
      const waitMs = ((1 - tokens) * MINUTE_MS) / requestsPerMinute
      throw new ApiError(
        429, 'rate_limit_exceeded', `This key may send ${requestsPerMinute} requests a minute.`, { headers: retryHeaders(waitMs) },
      )
    }
    this.#buckets.set(id, { tokens: tokens - 1, at: now })
  }
}
