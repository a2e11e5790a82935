#!/usr/bin/env node
// The `lorikeet` command: one row a subcommand, each loaded when it is called.

import { pathToFileURL } from 'node:url'
import { realpathSync } from 'node:fs'
import { UsageError } from './settings.js'

const LAST_MS = 2_000

interface Command {
  readonly summary: string
  /** Resolves to the exit code. */
  readonly run: (args: readonly string[]) => Promise<number>
}

const COMMANDS: Readonly<Record<string, Command>> = {
  serve: {
    summary: 'Serve a model over HTTP (what npm start runs)',
    run: async (args) => (await import('./main.js')).serve(args),
  },
  train: {
    summary: 'Train an adapter, alone or on a server that runs',
    run: async (args) => (await import('./commands/train.js')).train(args),
  },
  chat: {
    summary: 'Talk to a model in the terminal',
    run: async (args) => (await import('./commands/chat.js')).chat(args),
  },
  adapters: {
    summary: 'List, add, promote, roll back and remove adapters of a server',
    run: async (args) => (await import('./commands/adapters.js')).adapters(args),
  },
  eval: {
    summary: 'Measure a model and an adapter on a data set',
    run: async (args) => (await import('./commands/eval.js')).evaluateModel(args),
  },
  merge: {
    summary: 'Write a base with an adapter merged in, as a Hugging Face model',
    run: async (args) => (await import('./commands/merge.js')).merge(args),
  },
  export: {
    summary: 'Write a model, a merged model or an adapter as GGUF',
    run: async (args) => (await import('./commands/export.js')).exportModel(args),
  },
  keys: {
    summary: 'Create, list and revoke API keys',
    run: async (args) => (await import('./commands/keys.js')).keys(args),
  },
  bench: {
    summary: 'Measure a model on this machine, or a server: latency, tokens a second',
    run: async (args) => (await import('./commands/bench.js')).bench(args),
  },
}

/** Runs one command line. Usage errors are told on standard error and give 2. */
export async function main(argv: readonly string[]): Promise<number> {
  const [name = '--help', ...args] = argv
  if (name === '--help' || name === '-h' || name === 'help') return say(usage())
  if (name === '--version' || name === '-v') return say((await import('./version.js')).VERSION)
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (command === undefined) return complain(`unknown command "${name}"\n\n${usage()}`)
  try {
    return await command.run(args)
  } catch (error) {
    if (error instanceof UsageError) return complain(`${error.message}\nTry: lorikeet ${name} --help`)
    throw error
  }
}

function usage(): string {
  const rows = Object.entries(COMMANDS).map(([name, { summary }]) => `  ${name.padEnd(12)}${summary}`)
  return `Usage: lorikeet COMMAND [FLAGS]\n\n${rows.join('\n')}\n\nlorikeet COMMAND --help lists a command's flags.`
}

function say(text: string): number {
  process.stdout.write(`${text}\n`)
  return 0
}

function complain(text: string): number {
  process.stderr.write(`lorikeet: ${text}\n`)
  return 2
}

const isEntryPoint = process.argv[1] !== undefined && import.meta.url === pathToFileURL(realpathSync(process.argv[1])).href
if (isEntryPoint) {
  process.exitCode = await main(process.argv.slice(2))
  // Done: no forgotten handle keeps the process.
  setTimeout(() => process.exit(), LAST_MS).unref()
}
