// What a name stands for: adapter.json beside its versions, replaced as a whole. Pure functions from one record to the next.

import type { Manifest } from './manifest.js'
import { isAdapterName, isVersion } from './names.js'

export const RECORD_FILE = 'adapter.json'
const MAX_HISTORY = 200

export interface HistoryEntry {
  readonly action: 'publish' | 'promote' | 'rollback' | 'load' | 'unload' | 'quarantine'
  readonly version: string | null
  readonly at: string
}

/** What a name stands for. The top of `stack` is the current version; roll-back takes it off. */
export interface NameRecord {
  readonly format: 1
  readonly name: string
  /** False after unload_lora_adapter: kept on disk, unknown to requests until a version becomes current again. */
  readonly served: boolean
  readonly stack: readonly string[]
  readonly versions: readonly string[]    // oldest first
  readonly history: readonly HistoryEntry[]
}

/** @throws Error when the text is not a record */
export function parseRecord(text: string): NameRecord {
  const record = JSON.parse(text) as NameRecord
  const lists = [record.stack, record.versions]
  const complete = record.format === 1 && isAdapterName(record.name) && typeof record.served === 'boolean' &&
    Array.isArray(record.history) &&
    lists.every((list) => Array.isArray(list) && list.every(isVersion))
  if (!complete) throw new Error('not an adapter record of this format')
  return record
}

export function emptyRecord(name: string): NameRecord {
  return { format: 1, name, served: true, stack: [], versions: [], history: [] }
}

export function publishedRecord(record: NameRecord, version: string, promote: boolean): NameRecord {
  const versions = [...record.versions.filter((other) => other !== version), version]
  return promote ? promotedRecord({ ...record, versions }, version, 'publish')
    : { ...record, versions, history: logged(record, 'publish', version) }
}

export function promotedRecord(record: NameRecord, version: string, action: 'publish' | 'promote'): NameRecord {
  const stack = record.stack.at(-1) === version ? record.stack : [...record.stack, version].slice(-MAX_HISTORY)
  return { ...record, served: true, stack, history: logged(record, action, version) }
}

export function without(record: NameRecord, version: string): NameRecord {
  const keeps = (other: string) => other !== version
  return { ...record, stack: record.stack.filter(keeps), versions: record.versions.filter(keeps) }
}

/** After a lost record: every version is kept, the newest is current. */
export function rebuiltRecord(name: string, found: Pick<Manifest, 'version' | 'createdAt'>[]): NameRecord {
  const versions = found.sort((a, b) => a.createdAt.localeCompare(b.createdAt)).map(({ version }) => version)
  return { ...emptyRecord(name), versions, stack: versions }
}

export function logged(record: NameRecord, action: HistoryEntry['action'], version: string | null): HistoryEntry[] {
  return [...record.history, { action, version, at: new Date().toISOString() }].slice(-MAX_HISTORY)
}
