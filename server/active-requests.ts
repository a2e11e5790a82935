// Every generation in flight, by the key it came with: who must hear of a drain or of a revoked key.

import { ApiError } from './errors.js'
import type { ApiKey } from './keys.js'
import { RequestScope, type AbortReason } from './request-scope.js'

export class ActiveRequests {
  readonly #timeoutMs: number
  readonly #byKey = new Map<string, Set<RequestScope>>()
  #waiters: Array<() => void> = []

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs
  }

  get size(): number {
    let n = 0
    for (const scopes of this.#byKey.values()) n += scopes.size
    return n
  }

  /** Opens the scope of one generation. @throws ApiError 429 past the key's own limit. */
  open(id: string, key: ApiKey | null): RequestScope {
    const keyId = key?.id ?? ''
    const scopes = this.#byKey.get(keyId) ?? new Set()
    if (key?.maxConcurrent !== undefined && scopes.size >= key.maxConcurrent) {
      throw new ApiError(
        429, 'rate_limit_exceeded', `This key may run ${key.maxConcurrent} requests at once.`, { headers: { 'retry-after': '1' } },
      )
    }
    const scope = new RequestScope(id, this.#timeoutMs, () => this.#close(keyId, scope))
    this.#byKey.set(keyId, scopes.add(scope))
    return scope
  }

  #close(keyId: string, scope: RequestScope): void {
    const scopes = this.#byKey.get(keyId)
    scopes?.delete(scope)
    if (scopes?.size === 0) this.#byKey.delete(keyId)
    if (this.#byKey.size === 0) this.#waiters.splice(0).forEach((wake) => wake())
  }

  abortKey(keyId: string, reason: AbortReason): void {
    for (const scope of this.#byKey.get(keyId) ?? []) scope.abort(reason)
  }

  abortAll(reason: AbortReason): void {
    for (const keyId of this.#byKey.keys()) this.abortKey(keyId, reason)
  }

  /** Resolves once nothing is in flight; false when the time is up first. */
  async idle(timeoutMs: number): Promise<boolean> {
    if (this.#byKey.size === 0) return true
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<false>((resolve) => (timer = setTimeout(resolve, timeoutMs, false)))
    const idle = new Promise<true>((resolve) => this.#waiters.push(() => resolve(true)))
    return Promise.race([idle, late]).finally(() => clearTimeout(timer))
  }
}
