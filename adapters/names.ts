// The one validator of adapter names and versions, used by routes, commands, the store and jobs alike; and what `model` may say.

import { EngineError } from '../engine/errors.js'

/** Also a folder's name: no separator, no leading dot or dash, nothing that a shell or a URL reads differently. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
const VERSION = /^[0-9a-f]{64}$/
const VERSION_PREFIX = /^[0-9a-f]{4,64}$/
/** Devices on Windows (with any ending), and members of every JavaScript object. */
const RESERVED = /^(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?$|^(?:constructor|prototype|tostring|valueof|hasownproperty)$/i

export const ADAPTER_NAME_PATTERN = NAME.source

export function isAdapterName(name: unknown): name is string {
  return typeof name === 'string' && NAME.test(name) && !name.endsWith('.') && !RESERVED.test(name)
}

/** @throws EngineError INVALID_REQUEST naming `param`; the name itself is shown only as JSON, cut short. */
export function checkAdapterName(name: unknown, param = 'name'): string {
  if (isAdapterName(name)) return name
  const shown = JSON.stringify(name)?.slice(0, 80)
  throw new EngineError('INVALID_REQUEST',
    `${shown} is not an adapter name: 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter ` +
    'or digit, and no name that a system reserves', { param })
}

export function isVersion(version: unknown): version is string {
  return typeof version === 'string' && VERSION.test(version)
}

/** A whole version or its beginning, at least four hex digits. @throws EngineError INVALID_REQUEST */
export function checkVersionPrefix(version: unknown, param = 'version'): string {
  if (typeof version === 'string' && VERSION_PREFIX.test(version)) return version
  throw new EngineError('INVALID_REQUEST', `${JSON.stringify(version)?.slice(0, 80)} is not a version: 4 to 64 lower-case hex digits`,
    { param })
}

export type ModelReference =
  | { readonly kind: 'base'; readonly id: string }
  | { readonly kind: 'adapter'; readonly name: string; readonly versionPrefix: string | undefined }

/** ft:BASE:ORGANISATION:NAME:VERSION, and what OpenAI hangs on the names of checkpoints. BASE may hold colons. */
const FINE_TUNED = /^ft:.+:[^:]+:([^:]+):([0-9a-f]{8})(?::ckpt-step-\d+)?$/
export const ORGANISATION = 'lorikeet'
const FINE_TUNED_DIGITS = 8

/** The name of a version in the form that OpenAI's fine-tuned models have: parseModel reads it as NAME@VERSION. */
export function fineTunedModelName(base: string, name: string, version: string, step?: number): string {
  const checkpoint = step === undefined ? '' : `:ckpt-step-${step}`
  return `ft:${base}:${ORGANISATION}:${name}:${version.slice(0, FINE_TUNED_DIGITS)}${checkpoint}`
}

/** The adapter's name in whatever way `model` is written, for keys that are bound to some. */
export function adapterNameOf(model: string): string {
  return FINE_TUNED.exec(model)?.[1] ?? model.split('@')[0]!
}

/**
 * Reads `base`, `name`, `name@version`, SGLang's `base:name` and OpenAI's `ft:base:organisation:name:version`. Null: nothing that
 * could exist here.
 */
export function parseModel(model: string, baseNames: readonly string[]): ModelReference | null {
  if (baseNames.includes(model)) return { kind: 'base', id: model }
  const [, tunedName, tunedVersion] = FINE_TUNED.exec(model) ?? []
  if (isAdapterName(tunedName)) return { kind: 'adapter', name: tunedName, versionPrefix: tunedVersion }
  const base = baseNames.find((name) => model.startsWith(`${name}:`))
  const [name, versionPrefix, ...rest] = (base === undefined ? model : model.slice(base.length + 1)).split('@')
  if (!isAdapterName(name) || rest.length > 0) return null
  if (versionPrefix !== undefined && !VERSION_PREFIX.test(versionPrefix)) return null
  return { kind: 'adapter', name, versionPrefix }
}
