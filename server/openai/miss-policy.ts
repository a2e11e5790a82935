// How a request says what it does when its adapter is not in a device slot: a body field of ours (OpenAI clients: extra_body), or a
// header for gateways, which do not rewrite bodies. A name that the server does not know is a 404 whatever the policy.

import { Type } from 'typebox'
import type { MissPolicy } from '../../adapters/slot-types.js'

export const MISS_HEADER = 'x-lorikeet-adapter-miss'

const DESCRIPTION = 'When the adapter is stored but not resident: "wait" loads it and waits for a slot (429 after --adapter-wait), ' +
  '"error" answers 404 adapter_not_found at once, to try another replica. Default: --adapter-miss.'

/** Null is absence, as everywhere in these bodies. */
export const missPolicyField = Type.Optional(Type.Unsafe<MissPolicy | null>({
  type: ['string', 'null'], enum: ['wait', 'error', null], description: DESCRIPTION,
}))

export const MissHeaders = Type.Object({
  [MISS_HEADER]: Type.Optional(Type.Unsafe<MissPolicy>({
    type: 'string', enum: ['wait', 'error'], description: 'As `adapter_miss` in the body, which wins.',
  })),
})

interface MissRequest {
  readonly body: { readonly adapter_miss?: MissPolicy | null }
  readonly headers: { readonly [MISS_HEADER]?: MissPolicy }
}

/** Undefined: the server's own. */
export function missPolicyOf({ body, headers }: MissRequest): MissPolicy | undefined {
  return body.adapter_miss ?? headers[MISS_HEADER]
}
