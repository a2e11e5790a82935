// JSON lines: one value a line, white lines skipped but counted, CRLF and a leading BOM accepted. Only U+000A ends a line.

import { createReadStream } from 'node:fs'
import { type DataRecord, RowFault } from './data-error.js'

/** Some two million tokens: tokenising more would hold up everybody else for seconds. */
export const MAX_RECORD_BYTES = 8 << 20
const BOM = Buffer.from([0xef, 0xbb, 0xbf])
const NEWLINE = 0x0a

export async function* readJsonl(path: string): AsyncGenerator<DataRecord> {
  let line = 0
  for await (const bytes of splitLines(path)) {
    line++
    if (bytes === null) yield { line, row: new RowFault('line_too_long') }
    else if (!isWhite(bytes)) yield { line, row: parseLine(bytes) }
  }
}

/** Bytes of each line without its newline, null for one that is too long. The BOM of the file is left out. */
async function* splitLines(path: string): AsyncGenerator<Buffer | null> {
  let pieces: Buffer[] = []
  let nBytes = 0
  const take = (): Buffer | null => {
    const line = nBytes > MAX_RECORD_BYTES ? null : pieces.length === 1 ? pieces[0]! : Buffer.concat(pieces)
    pieces = []
    nBytes = 0
    return line
  }
  for await (const chunk of withoutBom(path)) {
    let from = 0
    for (let to = chunk.indexOf(NEWLINE); to !== -1; to = chunk.indexOf(NEWLINE, from)) {
      pieces.push(chunk.subarray(from, to))
      nBytes += to - from
      yield take()
      from = to + 1
    }
    nBytes += chunk.length - from
    if (nBytes > MAX_RECORD_BYTES) pieces = []
    else if (from < chunk.length) pieces.push(chunk.subarray(from))
  }
  if (nBytes > 0) yield take()
}

/** Chunks of a file, less the byte order mark at its start. */
export async function* withoutBom(path: string): AsyncGenerator<Buffer> {
  let isFirst = true
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
    yield isFirst && chunk.subarray(0, 3).equals(BOM) ? chunk.subarray(3) : chunk
    isFirst = false
  }
}

function isWhite(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d)
}

function parseLine(bytes: Buffer): unknown {
  const text = decodeUtf8(bytes)
  return text instanceof RowFault ? text : parseJson(text)
}

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export function decodeUtf8(bytes: Uint8Array): string | RowFault {
  try {
    return decoder.decode(bytes)
  } catch {
    return new RowFault('invalid_utf8')
  }
}

export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    // V8 quotes the text itself, which may be long or private.
    const { message } = error as Error
    return new RowFault('invalid_json', error instanceof RangeError ? 'nested too deep' : /position \d+/.exec(message)?.[0] ?? '')
  }
}
