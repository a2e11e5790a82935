// API keys: a JSON file of hashes with scopes. The file is watched, so that a revoked key is dead within a second.

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { chmodSync, closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, statSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { UsageError } from './settings.js'

export const SCOPES = ['infer', 'adapters:read', 'adapters:write', 'train', 'hub:pull', 'hub:push', 'metrics', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

export interface ApiKey {
  readonly id: string
  readonly name: string
  /** SHA-256 of the whole key, hex. */
  readonly sha256: string
  readonly scopes: readonly Scope[]
  /** Models that the key may name; absent = all. */
  readonly models?: readonly string[]
  /** Requests a minute; absent = no limit. */
  readonly requestsPerMinute?: number
  /** Generations at once; absent = no limit. */
  readonly maxConcurrent?: number
  readonly createdAt: string
  readonly expiresAt?: string
}

export type NewKey = Pick<ApiKey, 'name' | 'scopes'> & Partial<Pick<ApiKey, 'models' | 'requestsPerMinute' | 'maxConcurrent' | 'expiresAt'>>

const KEY_BYTES = 32
const ID_BYTES = 6
const FORMAT = /^lk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}$/
const WATCH_MS = 500

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest()

export class KeyStore {
  readonly #path: string
  #keys = new Map<string, ApiKey>()
  #stamp = ''
  #timer: NodeJS.Timeout | undefined
  #onRevoke: (id: string) => void = () => {}

  /** @throws UsageError when the file is missing or malformed. */
  constructor(path: string) {
    this.#path = path
    this.#read()
  }

  /** Rereads the file when it changes; keys that are gone are reported. A file that turns malformed keeps the keys of before. */
  watch(onRevoke: (id: string) => void, onError: (error: unknown) => void): void {
    this.#onRevoke = onRevoke
    this.#timer = setInterval(() => {
      try {
        this.#read()
      } catch (error) {
        onError(error)
      }
    }, WATCH_MS)
    this.#timer.unref()
  }

  close(): void {
    clearInterval(this.#timer)
  }

  list(): readonly ApiKey[] {
    return [...this.#keys.values()]
  }

  /** The key's entry, or undefined; takes the same time for a wrong secret as for a right one. */
  verify(secret: string): ApiKey | undefined {
    const id = FORMAT.exec(secret)?.[1] ?? ''
    const key = this.#keys.get(id)
    const expected = key === undefined ? Buffer.alloc(32) : Buffer.from(key.sha256, 'hex')
    const same = timingSafeEqual(sha256(secret), expected)
    if (key === undefined || !same) return undefined
    return key.expiresAt !== undefined && Date.parse(key.expiresAt) < Date.now() ? undefined : key
  }

  #read(): void {
    const { mtimeMs, size, ino } = this.#stat()
    const stamp = `${mtimeMs}/${size}/${ino}`
    if (stamp === this.#stamp) return
    const keys = new Map(readKeyFile(this.#path).map((key) => [key.id, key]))
    const gone = [...this.#keys.keys()].filter((id) => !keys.has(id))
    this.#keys = keys
    this.#stamp = stamp
    gone.forEach((id) => this.#onRevoke(id))
  }

  #stat() {
    try {
      return statSync(this.#path)
    } catch {
      throw new UsageError(`--api-keys ${this.#path} cannot be read: "lorikeet keys create --api-keys ${this.#path}" makes it`)
    }
  }
}

/** Adds a key and returns its secret, which is kept nowhere. */
export function createKey(path: string, fields: NewKey): { readonly secret: string; readonly key: ApiKey } {
  const keys = existsSync(path) ? readKeyFile(path) : []
  const id = randomBytes(ID_BYTES).toString('hex')
  const secret = `lk_${id}_${randomBytes(KEY_BYTES).toString('base64url')}`
  const key: ApiKey = { id, ...fields, sha256: sha256(secret).toString('hex'), createdAt: new Date().toISOString() }
  writeKeyFile(path, [...keys, key])
  return { secret, key }
}

/** False when there is no such key. */
export function revokeKey(path: string, id: string): boolean {
  const keys = readKeyFile(path)
  const rest = keys.filter((key) => key.id !== id)
  if (rest.length < keys.length) writeKeyFile(path, rest)
  return rest.length < keys.length
}

export function readKeyFile(path: string): ApiKey[] {
  try {
    const file = JSON.parse(readFileSync(path, 'utf8')) as { version?: unknown; keys?: unknown }
    if (file.version === 1 && Array.isArray(file.keys) && file.keys.every(isKey)) return file.keys
  } catch (error) {
    throw new UsageError(`${path} is not a key file: ${(error as Error).message}`)
  }
  throw new UsageError(`${path} is not a key file of version 1`)
}

function isKey(value: unknown): value is ApiKey {
  const key = value as Partial<ApiKey> | null
  return (
    typeof key === 'object' && key !== null && typeof key.id === 'string' && typeof key.name === 'string' &&
    /^[0-9a-f]{64}$/.test(key.sha256 ?? '') && Array.isArray(key.scopes) && key.scopes.every((scope) => SCOPES.includes(scope))
  )
}

/** Old file or new file, never half of one, readable by its owner only. */
function writeKeyFile(path: string, keys: readonly ApiKey[]): void {
  const temporary = `${path}.${process.pid}.tmp`
  const file = openSync(temporary, 'w', 0o600)
  try {
    writeSync(file, `${JSON.stringify({ version: 1, keys }, null, 2)}\n`)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  chmodSync(temporary, 0o600)
  renameSync(temporary, path)
  syncDirectory(dirname(path))
}

function syncDirectory(path: string): void {
  const directory = openSync(path, 'r')
  try {
    fsyncSync(directory)
  } finally {
    closeSync(directory)
  }
}
