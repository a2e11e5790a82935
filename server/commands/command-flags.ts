// Flags of commands that work on files: parsed strictly, said in one table.

import { parseArgs } from 'node:util'
import { UsageError } from '../settings.js'

/** Flag: [placeholder ("" for a switch), help]. */
export type FlagTable = Readonly<Record<string, readonly [placeholder: string, help: string]>>
export type FlagValues<T extends FlagTable> = { readonly [K in keyof T]?: T[K][0] extends '' ? boolean : string }

const HELP_COLUMN = 30

/** Undefined: help was asked for. @throws UsageError */
export function parseFlags<const T extends FlagTable>(args: readonly string[], table: T): FlagValues<T> | undefined {
  if (args.includes('--help') || args.includes('-h')) return undefined
  const options = Object.fromEntries(Object.entries(table).map(([name, [placeholder]]) =>
    [name, { type: placeholder === '' ? 'boolean' : 'string' } as const]))
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values as FlagValues<T>
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
}

/** The table's own flags, and those that are left: an engine's. */
export function splitFlags(
  args: readonly string[], table: FlagTable,
): { readonly own: readonly string[]; readonly rest: readonly string[] } {
  const own: string[] = []
  const rest: string[] = []
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!
    const [name] = arg.slice(2).split('=', 1)
    const placeholder = arg.startsWith('--') && Object.hasOwn(table, name!) ? table[name!]![0] : undefined
    if (placeholder === undefined) rest.push(arg)
    else own.push(arg, ...(placeholder === '' || arg.includes('=') || i + 1 === args.length ? [] : [args[++i]!]))
  }
  return { own, rest }
}

export function describeFlags(table: FlagTable): string {
  return Object.entries(table).map(([name, [placeholder, help]]) => {
    const usage = `  --${name}${placeholder === '' ? '' : ` ${placeholder}`}`
    return usage.length < HELP_COLUMN ? `${usage.padEnd(HELP_COLUMN)}${help}` : `${usage}\n${' '.repeat(HELP_COLUMN)}${help}`
  }).join('\n')
}

/** @throws UsageError naming a flag that the command cannot do without */
export function needFlag(value: string | undefined, name: string): string {
  if (value === undefined || value === '') throw new UsageError(`--${name} is needed`)
  return value
}

export function choiceFlag<const T extends string>(value: string | undefined, name: string, choices: readonly T[]): T {
  const chosen = choices.find((choice) => choice === (value ?? choices[0]))
  if (chosen === undefined) throw new UsageError(`--${name} expects one of ${choices.join(', ')}, not "${value}"`)
  return chosen
}

/** A whole number within limits. */
export function numberFlag(
  value: string | undefined, name: string, fallback: number, [minimum, maximum]: readonly [number, number],
): number {
  if (value === undefined) return fallback
  const n = /^\d{1,15}$/.test(value) ? Number(value) : NaN
  if (n >= minimum && n <= maximum) return n
  throw new UsageError(`--${name} expects a whole number from ${minimum} to ${maximum}, not "${value}"`)
}
