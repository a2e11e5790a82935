// Kinds of settings: how each is read from a flag or a variable, and what is said when it is malformed.

/** The start stops with this message and exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

export interface Setting<T> {
  readonly help: string
  readonly fallback: T
  /** Shown in --help for the value: "N", "BYTES", "a|b". */
  readonly placeholder: string
  readonly repeatable?: true
  /** The default as --help shows it. */
  readonly shown: string
  /** @throws UsageError without the setting's name: the caller puts it in front. */
  parse(text: string): T
}

export function text(fallback: string, placeholder: string, help: string): Setting<string> {
  return { help, fallback, placeholder, shown: fallback, parse: (value) => value }
}

export function integer(fallback: number, minimum: number, maximum: number, help: string): Setting<number> {
  return { help, fallback, placeholder: 'N', shown: String(fallback), parse: (value) => parseInteger(value, minimum, maximum) }
}

function parseInteger(value: string, minimum: number, maximum: number): number {
  const n = /^-?\d{1,15}$/.test(value.trim()) ? Number(value) : NaN
  if (n >= minimum && n <= maximum) return n
  throw new UsageError(`expects a whole number from ${minimum} to ${maximum}, not "${value}"`)
}

export function choice<const T extends string>(fallback: T, choices: readonly T[], help: string): Setting<T> {
  return {
    help,
    fallback,
    placeholder: choices.join('|'),
    shown: fallback,
    parse(value) {
      const chosen = choices.find((candidate) => candidate === value)
      if (chosen === undefined) throw new UsageError(`expects one of ${choices.join(', ')}, not "${value}"`)
      return chosen
    },
  }
}

export function pattern(fallback: string, regex: RegExp, placeholder: string, help: string): Setting<string> {
  return {
    help,
    fallback,
    placeholder,
    shown: fallback,
    parse(value) {
      if (!regex.test(value)) throw new UsageError(`expects ${placeholder}, not "${value}"`)
      return value
    },
  }
}

export function flag(fallback: boolean, help: string): Setting<boolean> {
  return {
    help,
    fallback,
    placeholder: '',
    shown: '',
    parse(value) {
      if (['1', 'true', 'yes', 'on'].includes(value.toLowerCase())) return true
      if (['0', 'false', 'no', 'off'].includes(value.toLowerCase())) return false
      throw new UsageError(`expects true or false, not "${value}"`)
    },
  }
}

/** A part of one: above 0, at most 1. */
export function share(fallback: number, help: string): Setting<number> {
  return {
    help,
    fallback,
    placeholder: 'SHARE',
    shown: String(fallback),
    parse(value) {
      const part = /^(?:0?\.\d{1,9}|0|1(?:\.0+)?)$/.test(value.trim()) ? Number(value) : NaN
      if (part > 0 && part <= 1) return part
      throw new UsageError(`expects a number above 0, at most 1, not "${value}"`)
    },
  }
}

const BYTE_UNITS: Readonly<Record<string, number>> = {
  '': 1, b: 1, k: 1e3, kb: 1e3, kib: 2 ** 10, m: 1e6, mb: 1e6, mib: 2 ** 20, g: 1e9, gb: 1e9, gib: 2 ** 30,
}

/** Bytes, with an optional unit: 1048576, 64KiB, 2GiB. */
export function bytes(fallback: number, minimum: number, help: string): Setting<number> {
  return {
    help,
    fallback,
    placeholder: 'BYTES',
    shown: showBytes(fallback),
    parse(value) {
      const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/.exec(value.trim().toLowerCase())
      const unit = BYTE_UNITS[match?.[2] ?? 'none']
      const n = match === null || unit === undefined ? NaN : Math.floor(Number(match[1]) * unit)
      if (n >= minimum && Number.isSafeInteger(n)) return n
      throw new UsageError(`expects bytes like 1048576, 64MiB or 2GiB, at least ${minimum}, not "${value}"`)
    },
  }
}

function showBytes(n: number): string {
  if (n >= 2 ** 20 && n % 2 ** 20 === 0) return `${n / 2 ** 20}MiB`
  return n >= 2 ** 10 && n % 2 ** 10 === 0 ? `${n / 2 ** 10}KiB` : String(n)
}

const TIME_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, '': 1_000, m: 60_000, h: 3_600_000 }

/** Milliseconds, written as 500ms, 30s, 5m; a bare number is seconds. */
export function duration(fallbackMs: number, minimumMs: number, help: string): Setting<number> {
  return {
    help,
    fallback: fallbackMs,
    placeholder: 'TIME',
    shown: `${fallbackMs / 1_000}s`,
    parse(value) {
      const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|)$/.exec(value.trim())
      const ms = match === null ? NaN : Number(match[1]) * TIME_UNITS[match[2]!]!
      if (ms >= minimumMs && ms < 2 ** 31) return ms
      throw new UsageError(`expects a time like 500ms, 30s or 5m, at least ${minimumMs}ms, not "${value}"`)
    },
  }
}

/** Repeatable; its variable holds the values separated by commas. */
export function list<T>(placeholder: string, help: string, parseItem: (item: string) => T): Setting<readonly T[]> {
  return {
    help,
    fallback: [],
    placeholder,
    shown: '',
    repeatable: true,
    parse: (value) => value.split(',').map((item) => item.trim()).filter((item) => item !== '').map(parseItem),
  }
}
