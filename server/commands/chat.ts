// `lorikeet chat`: a conversation in the terminal, streamed. Ctrl-C stops an answer; /reset forgets, /quit leaves.

import { createInterface } from 'node:readline'
import type { ChatMessage } from '../../engine/api.js'
import { startEngine } from '../../engine/client.js'
import { clientApiKey, loadConfig } from '../config.js'
import { ProgressBar } from '../progress-bar.js'
import { UsageError } from '../settings.js'
import { EngineTalk, ServerTalk, type Talk, type TalkOptions } from './talk.js'

/** Flag: [placeholder, help]. */
const OWN_FLAGS = {
  server: ['URL', 'Talk to a server that runs instead of loading a model.'],
  'api-key': ['KEY', 'Key for that server (or LORIKEET_API_KEY).'],
  system: ['TEXT', 'System prompt.'],
  temperature: ['X', '0 is greedy; default: the model\'s own.'],
  seed: ['N', 'Same seed, same answers.'],
  'max-tokens': ['N', 'Longest answer.'],
} as const

type OwnFlag = keyof typeof OWN_FLAGS
type OwnValues = Partial<Record<OwnFlag, string>>

const HELP = '/reset forgets the conversation, /quit leaves, Ctrl-C stops an answer.'

export interface Terminal {
  readonly input: NodeJS.ReadableStream
  readonly output: NodeJS.WritableStream
  readonly isTty: boolean
}

export async function chat(args: readonly string[]): Promise<number> {
  const { own, rest } = splitFlags(args)
  if (rest.includes('--help') || rest.includes('-h')) return help()
  const talk = await openTalk(own, rest)
  try {
    await converse(talk, { input: process.stdin, output: process.stdout, isTty: process.stdin.isTTY === true }, own.system ?? '')
  } finally {
    await talk.close()
  }
  return 0
}

async function openTalk(own: OwnValues, rest: readonly string[]): Promise<Talk> {
  const config = loadConfig(rest)
  const options = talkOptions(own)
  if (own.server !== undefined) {
    if (!URL.canParse(own.server)) throw new UsageError(`--server expects a URL like http://127.0.0.1:8000, not "${own.server}"`)
    const apiKey = clientApiKey(own['api-key'])
    return ServerTalk.connect({ url: own.server, apiKey, model: config.model }, options)
  }
  const bar = new ProgressBar()
  const engine = await startEngine(config.engine, (progress) => bar.update(progress))
  bar.finish()
  return new EngineTalk(engine, options)
}

function talkOptions(own: OwnValues): TalkOptions {
  const temperature = number(own, 'temperature')
  const seed = number(own, 'seed')
  const maxTokens = number(own, 'max-tokens')
  return {
    sampling: { ...(temperature !== undefined && { temperature }), ...(seed !== undefined && { seed }) },
    ...(maxTokens !== undefined && { maxTokens }),
  }
}

function number(own: OwnValues, flag: OwnFlag): number | undefined {
  const value = own[flag]
  if (value === undefined) return undefined
  if (/^-?\d+(\.\d+)?$/.test(value)) return Number(value)
  throw new UsageError(`--${flag} expects a number, not "${value}"`)
}

/** One turn a line until the input ends. */
export async function converse(talk: Talk, terminal: Terminal, system: string): Promise<void> {
  const { input, output, isTty } = terminal
  const opening: ChatMessage[] = system === '' ? [] : [{ role: 'system', content: system }]
  const lines = createInterface({ input, output: isTty ? output : undefined, terminal: isTty, prompt: '> ' })
  let messages = opening
  let answering: AbortController | undefined
  lines.on('SIGINT', () => (answering === undefined ? lines.close() : answering.abort()))
  if (isTty) output.write(`${talk.model}. ${HELP}\n`)
  lines.prompt()
  for await (const line of lines) {
    const said = line.trim()
    if (said === '/quit' || said === '/exit') break
    if (said === '/reset') messages = opening
    else if (said.startsWith('/')) output.write(`${HELP}\n`)
    else if (said !== '') {
      answering = new AbortController()
      messages = await turn(talk, [...messages, { role: 'user', content: said }], output, answering.signal)
      answering = undefined
    }
    lines.prompt()
  }
  lines.close()
}

/** The conversation with the answer, or without the question when it failed. */
async function turn(talk: Talk, messages: ChatMessage[], output: NodeJS.WritableStream, signal: AbortSignal): Promise<ChatMessage[]> {
  let content = ''
  try {
    for await (const piece of talk.answer(messages, signal)) {
      content += piece
      output.write(piece)
    }
    output.write(signal.aborted ? ' [stopped]\n' : '\n')
  } catch (error) {
    output.write(`\n[${(error as Error).message}]\n`)
    return messages.slice(0, -1)
  }
  return content === '' ? messages.slice(0, -1) : [...messages, { role: 'assistant', content }]
}

/** This command's own flags, and those of the model that are left. */
function splitFlags(args: readonly string[]): { readonly own: OwnValues; readonly rest: readonly string[] } {
  const own: OwnValues = {}
  const rest: string[] = []
  for (let i = 0; i < args.length; i++) {
    const [name, inline] = args[i]!.split(/=(.*)/s, 2)
    const flag = name!.slice(2)
    if (!name!.startsWith('--') || !Object.hasOwn(OWN_FLAGS, flag)) rest.push(args[i]!)
    else {
      const value = inline ?? args[++i]
      if (value === undefined) throw new UsageError(`${name} needs a value`)
      own[flag as OwnFlag] = value
    }
  }
  return { own, rest }
}

function help(): number {
  const own = Object.entries(OWN_FLAGS).map(([flag, [placeholder, text]]) => `${`  --${flag} ${placeholder}`.padEnd(34)}${text}`)
  process.stdout.write(`Usage: lorikeet chat [--server URL] [FLAGS]

${HELP}

${own.join('\n')}

Without --server, the flags of "lorikeet serve" say which model is loaded, and how.
`)
  return 0
}
