// Tokenizers and chat template against the recorded cases.

import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gemmaTemplate, pythonStrip } from '../../engine/chat-template.js'
import { detokenize } from '../../engine/detokenizer.js'
import { openGgufTokenizer } from '../../engine/gguf-tokenizer.js'
import { loadHfTokenizer } from '../../engine/hf-tokenizer.js'
import { PromptEncoder } from '../../engine/prompt-encoder.js'
import type { Tokenizer } from '../../engine/tokenizer.js'
import type { Report } from './report.js'

const IMAGE_ID = 262_144

interface TextCase {
  readonly text: string
  readonly ids: number[]
  readonly ids_as_plain_text?: number[]
  readonly decoded?: string
  readonly decoded_skip_special?: string
  readonly prefix_texts?: string[]
}

export interface Paths {
  readonly tokenizerJson: string
  readonly gguf: string
}

export async function checkText(root: string, paths: Paths, report: Report): Promise<void> {
  for (const [name, path, open] of [
    ['tokenizer.json', paths.tokenizerJson, (file: string) => loadHfTokenizer(file, null)],
    ['GGUF vocabulary', paths.gguf, async (file: string) => openGgufTokenizer(file)],
  ] as const) {
    report.section(`text through ${name}`)
    if (!existsSync(path)) {
      report.skip(name, `no file at ${path}`)
      continue
    }
    const tokenizer = await open(path)
    if (existsSync(join(root, 'tokenizer', 'cases.json'))) await checkTokenizer(join(root, 'tokenizer', 'cases.json'), tokenizer, report)
    if (existsSync(join(root, 'chat', 'cases.json'))) await checkChat(join(root, 'chat', 'cases.json'), tokenizer, report)
  }
}

async function checkTokenizer(path: string, tokenizer: Tokenizer, report: Report): Promise<void> {
  const golden = JSON.parse(readFileSync(path, 'utf8')) as { texts: TextCase[]; id_sequences: TextCase[]; with_bos_added: TextCase[] }
  const { table } = tokenizer
  const wrong: string[] = []
  const expect = (kind: string, text: string, holds: boolean) => { if (!holds) wrong.push(`${kind} ${JSON.stringify(text.slice(0, 40))}`) }
  for (const { text, ids, ids_as_plain_text: plain } of golden.texts) {
    expect('encode', text, same(Array.from(await tokenizer.encode(text)), plain ?? ids))
  }
  report.equal('texts -> ids, control tokens as text', wrong.length, golden.texts.length)
  // A GGUF has no <image_soft_token>.
  const decodable = [...golden.texts, ...golden.id_sequences].filter(({ ids }) => table.has(IMAGE_ID) || !ids.includes(IMAGE_ID))
  for (const { text = '', ids, decoded, decoded_skip_special: skipped } of decodable) {
    expect('decode', text, detokenize(table, ids, false) === (decoded ?? text))
    expect('decode without control tokens', text, detokenize(table, ids, true) === (skipped ?? text))
  }
  report.equal('ids -> text, with and without control tokens', wrong.filter((line) => line.startsWith('decode')).length,
    2 * decodable.length)
  let nPrefixes = 0
  for (const { text = '', ids, prefix_texts: prefixes = [] } of decodable) {
    nPrefixes += prefixes.length
    prefixes.forEach((expected, i) => expect('prefix', text, detokenize(table, ids.slice(0, i + 1), false) === expected))
  }
  report.equal('text of every prefix', wrong.filter((line) => line.startsWith('prefix')).length, nPrefixes)
  const encoder = new PromptEncoder(tokenizer, gemmaTemplate)
  let nBos = 0
  for (const { text, ids } of golden.with_bos_added) nBos += same(await encoder.encode({ text }), ids) ? 0 : 1
  report.equal('<bos> in front of text', nBos, golden.with_bos_added.length)
  for (const line of wrong.slice(0, 10)) console.log(`        ${line}`)
}

interface ChatCase {
  readonly name: string
  readonly messages: { readonly role: 'user'; readonly content?: unknown }[]
  readonly generation_prompt?: ChatForm
  readonly no_generation_prompt?: ChatForm
}

interface ChatForm {
  readonly text: string
  readonly ids: number[]
  readonly ids_content_as_text?: number[]
}

async function checkChat(path: string, tokenizer: Tokenizer, report: Report): Promise<void> {
  const { cases } = JSON.parse(readFileSync(path, 'utf8')) as { cases: ChatCase[] }
  const encoder = new PromptEncoder(tokenizer, gemmaTemplate)
  let n = 0
  const wrong: string[] = []
  for (const { name, messages, ...forms } of cases) {
    const reduced = reduceContents(messages)
    // A developer message is a system message here, where the template alone would refuse it.
    if (reduced === undefined || name === 'error_developer_role') continue
    for (const [form, addGenerationPrompt] of [[forms.generation_prompt, true], [forms.no_generation_prompt, false]] as const) {
      n++
      const ids = await encoder.encode({ messages: reduced, addGenerationPrompt }).catch(() => null)
      const expected = form === undefined ? null : form.ids_content_as_text ?? form.ids
      const text = ids === null ? undefined : gemmaTemplate(reduced, addGenerationPrompt)
        .map((part) => ('control' in part ? part.control : part.text)).join('')
      if (!same(ids, expected) || text !== form?.text) wrong.push(name)
    }
  }
  report.equal('conversations -> text and ids, or refusal', wrong.length, n)
  for (const name of wrong.slice(0, 10)) console.log(`        ${name}`)
}

/** Contents as text, as the routes reduce them; undefined where a content is no text. */
function reduceContents(messages: ChatCase['messages']): { role: 'user'; content: string }[] | undefined {
  const reduced = messages.map(({ role, content }) => {
    if (typeof content === 'string') return { role, content }
    if (!Array.isArray(content) || content.length === 0 || content.some((part: { type?: string }) => part.type !== 'text')) return undefined
    const texts = (content as { text: string }[]).map((part) => part.text)
    return { role, content: (role as string) === 'system' ? texts[0]! : texts.map(pythonStrip).join('') }
  })
  return reduced.every((message) => message !== undefined) ? reduced : undefined
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b)
}
