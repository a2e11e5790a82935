// An adapter as operators see it: its versions, where each is and who holds it.

import type { StoredVersion } from './stored-version.js'

export type Tier = 'device' | 'host' | 'disk'

export interface VersionStatus extends StoredVersion {
  readonly isCurrent: boolean
  readonly tier: Tier
  readonly pins: number
  readonly lastUsedAt: string | null
}

export interface AdapterStatus {
  readonly name: string
  readonly served: boolean
  readonly pinned: boolean
  readonly current: string | null
  readonly versions: readonly VersionStatus[]
}
