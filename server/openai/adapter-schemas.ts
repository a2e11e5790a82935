// Bodies and answers of /admin/adapters, for validation and OpenAPI, and how an adapter is written in JSON.

import { Type, type Static } from 'typebox'
import type { AdapterStatus, VersionStatus } from '../../adapters/status.js'
import type { StoredVersion } from '../../adapters/store.js'
import { ErrorResponse } from './response-schemas.js'

export const NameParams = Type.Object({ name: Type.String() })
export const VersionParams = Type.Object({ name: Type.String(), version: Type.String() })
export const PromoteRequest = Type.Object({ version: Type.String({ description: 'The version, or its first digits (4 at least).' }) })

const file = (description: string) => Type.Unsafe<string>({ type: 'string', format: 'binary', description })
export const UploadForm = Type.Object({
  name: Type.String({ description: 'Name for `model`: letters, digits, ".", "_" and "-".' }),
  'adapter_config.json': file('As PEFT writes it.'),
  'adapter_model.safetensors': file('As PEFT writes it; no pickle.'),
  promote: Type.Optional(Type.Enum(['true', 'false'], { description: '"false": the name keeps standing for its present version.' })),
})

export const errorResponses = { '4xx': ErrorResponse, '5xx': ErrorResponse }

const versionFields = {
  version: Type.String({ description: 'Hash of its content.' }),
  created_at: Type.String(),
  source: Type.String(),
  bytes: Type.Integer(),
  rank: Type.Integer(),
  n_tensors: Type.Integer(),
  warnings: Type.Array(Type.String()),
}
const PublishedVersion = Type.Object({ object: Type.Literal('adapter.version'), name: Type.String(), ...versionFields,
  current: Type.Boolean() })
const Adapter = Type.Object({
  object: Type.Literal('adapter'),
  name: Type.String(),
  served: Type.Boolean({ description: 'False after unload_lora_adapter.' }),
  pinned: Type.Boolean(),
  current: Type.Union([Type.String(), Type.Null()]),
  versions: Type.Array(Type.Object({
    ...versionFields,
    current: Type.Boolean(),
    tier: Type.Enum(['device', 'host', 'disk']),
    pins: Type.Integer({ description: 'Requests that hold it.' }),
    last_used_at: Type.Union([Type.String(), Type.Null()]),
  })),
})

export const publishResponses = { 201: PublishedVersion, ...errorResponses }
export const adapterResponses = { 200: Adapter, ...errorResponses }
export const deleteResponses = { 200: Type.Object({ object: Type.String(), name: Type.String(), deleted: Type.Boolean() }),
  ...errorResponses }
export const adapterListResponses = {
  200: Type.Object({
    object: Type.Literal('list'),
    data: Type.Array(Adapter),
    slots: Type.Object({ total: Type.Integer(), used: Type.Integer(), pinned: Type.Integer(), waiting: Type.Integer() }),
  }),
  ...errorResponses,
}

type VersionCard = Static<Type.TObject<typeof versionFields>>

function versionCard({ version, createdAt, source, bytes, rank, nTensors, warnings }: StoredVersion): VersionCard {
  return { version, created_at: createdAt, source, bytes, rank, n_tensors: nTensors, warnings: [...warnings] }
}

export function publishedCard(version: StoredVersion, isCurrent: boolean): Static<typeof PublishedVersion> {
  return { object: 'adapter.version', name: version.name, ...versionCard(version), current: isCurrent }
}

export function adapterCard({ name, served, pinned, current, versions }: AdapterStatus): Static<typeof Adapter> {
  return { object: 'adapter', name, served, pinned, current, versions: versions.map(statusCard) }
}

function statusCard(version: VersionStatus) {
  const { isCurrent, tier, pins, lastUsedAt } = version
  return { ...versionCard(version), current: isCurrent, tier, pins, last_used_at: lastUsedAt }
}
