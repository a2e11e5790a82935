// What --model names: where its weights are, which tokenizer and generation defaults come with them.

import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { EngineOptions, SamplingParams } from './api.js'
import { EngineError } from './errors.js'
import { openGgufTokenizer } from './gguf-tokenizer.js'
import { loadHfTokenizer } from './hf-tokenizer.js'
import type { Tokenizer } from './tokenizer.js'

export interface ModelSource {
  /** What native code opens: a directory, a .gguf file or "random:SHAPE". */
  readonly path: string
  /** Null where the model has none: prompts only as token ids. */
  loadTokenizer(): Promise<Tokenizer | null>
  readonly defaultSampling: SamplingParams
  readonly eosTokenIds: readonly number[]
  /** Files that go with an adapter trained on it. */
  readonly tokenizerFiles: readonly string[]
}

const TOKENIZER_FILES = [
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json', 'chat_template.jinja',
]

/** Ids that end a turn in every Gemma 3 vocabulary: <eos> and <end_of_turn>. */
export const GEMMA_STOP_IDS: readonly number[] = [1, 106]
/** generation_config.json of the published instruction-tuned checkpoints. */
export const GEMMA_SAMPLING: SamplingParams = { temperature: 1, topK: 64, topP: 0.95 }

/** @throws EngineError MODEL_NOT_FOUND saying where it was looked for, FILE_INVALID */
export function resolveModel({ model, hfCacheDir }: Pick<EngineOptions, 'model' | 'hfCacheDir'>): ModelSource {
  if (model === '') return embeddedModel()
  const none = { defaultSampling: {}, eosTokenIds: [], tokenizerFiles: [] }
  if (model.startsWith('random:')) return { ...none, path: model, loadTokenizer: async () => null }
  if (existsSync(model)) return statSync(model).isDirectory() ? directory(model) : file(model)
  const cached = cachedSnapshot(model, hfCacheDir ?? join(homedir(), '.cache', 'huggingface', 'hub'))
  if (cached !== undefined) return directory(cached)
  const expected = 'a directory with config.json, a .gguf file, or the id of a model in the Hugging Face cache ("lorikeet pull" fetches it)'
  throw new EngineError('MODEL_NOT_FOUND', `no model at "${model}": expected ${expected}`, { param: 'model' })
}

function embeddedModel(): ModelSource {
  const path = findUp('engine/embedded')
  const gguf = path === undefined ? undefined : readdirSync(path).find((name) => name.endsWith('.gguf'))
  if (path !== undefined && existsSync(join(path, 'config.json'))) return directory(path)
  if (path !== undefined && gguf !== undefined) return file(join(path, gguf))
  throw new EngineError('MODEL_NOT_FOUND', 'this installation has no embedded model: name one with --model', { param: 'model' })
}

function file(path: string): ModelSource {
  return { path, loadTokenizer: async () => openGgufTokenizer(path), defaultSampling: {}, eosTokenIds: [], tokenizerFiles: [] }
}

function directory(path: string): ModelSource {
  const names = readdirSync(path)
  const gguf = names.filter((name) => name.endsWith('.gguf'))
  if (!names.includes('config.json') && gguf.length === 1) return file(join(path, gguf[0]!))
  if (!names.includes('config.json')) {
    const files = gguf.length === 0 ? 'no .gguf file' : 'several .gguf files'
    throw new EngineError('MODEL_NOT_FOUND', `"${path}" has no config.json and ${files}`, { param: 'model' })
  }
  const generation = readJson(join(path, 'generation_config.json')) ?? {}
  const tokenizer = join(path, 'tokenizer.json')
  return {
    path,
    loadTokenizer: async () => (existsSync(tokenizer) ? loadHfTokenizer(tokenizer, readChatTemplate(path)) : null),
    defaultSampling: samplingOf(generation),
    eosTokenIds: [generation['eos_token_id'] ?? []].flat().filter((id): id is number => Number.isInteger(id)),
    tokenizerFiles: TOKENIZER_FILES.filter((name) => names.includes(name)).map((name) => join(path, name)),
  }
}

/** Layout of the hub cache: models--ORG--NAME/refs/main names a directory under snapshots/. */
function cachedSnapshot(id: string, cacheDir: string): string | undefined {
  if (!/^[\w.-]+\/[\w.-]+$/.test(id) || id.includes('..')) return undefined
  const root = join(cacheDir, `models--${id.replace('/', '--')}`)
  const ref = join(root, 'refs', 'main')
  const snapshots = join(root, 'snapshots')
  const revision = existsSync(ref) ? readFileSync(ref, 'utf8').trim() : existsSync(snapshots) ? readdirSync(snapshots)[0] : undefined
  if (revision === undefined || !/^[\w.-]+$/.test(revision)) return undefined
  return existsSync(join(snapshots, revision)) ? join(snapshots, revision) : undefined
}

function samplingOf(generation: Readonly<Record<string, unknown>>): SamplingParams {
  const number = (name: string) => (typeof generation[name] === 'number' ? generation[name] : undefined)
  const fields = {
    temperature: generation['do_sample'] === false ? 0 : number('temperature'), topK: number('top_k'), topP: number('top_p'), minP: number('min_p'),
    repetitionPenalty: number('repetition_penalty'),
  }
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}

/** chat_template.jinja, else the string in tokenizer_config.json. */
function readChatTemplate(directory: string): string | null {
  const own = join(directory, 'chat_template.jinja')
  if (existsSync(own)) return readFileSync(own, 'utf8')
  const template = readJson(join(directory, 'tokenizer_config.json'))?.['chat_template']
  return typeof template === 'string' ? template : null
}

function readJson(path: string): Record<string, unknown> | undefined {
  if (!existsSync(path)) return undefined
  try {
    const value: unknown = JSON.parse(readFileSync(path, 'utf8'))
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  } catch (cause) {
    throw new EngineError('FILE_INVALID', `${path}: ${(cause as Error).message}`, { cause })
  }
  throw new EngineError('FILE_INVALID', `${path}: expected a JSON object`)
}

/** `relative` in the nearest directory above this module: dist/engine and engine/ both lie under the root. */
function findUp(relative: string): string | undefined {
  for (let url = new URL('./', import.meta.url); ; url = new URL('../', url)) {
    const path = fileURLToPath(new URL(relative, url))
    if (existsSync(path)) return path
    if (url.pathname === '/') return undefined
  }
}
