// CSV after RFC 4180: a header, fields that may be quoted, an empty cell is absent. `messages` holds JSON.
// A record's line is where it starts.

import { type DataRecord, RowFault } from './data-error.js'
import { MAX_RECORD_BYTES, decodeUtf8, parseJson, withoutBom } from './jsonl.js'
import { FORMATS } from './row-format.js'

const QUOTE = 0x22
const COMMA = 0x2c
const NEWLINE = 0x0a
const RETURN = 0x0d

export async function* readCsv(path: string): AsyncGenerator<DataRecord> {
  let header: string[] | undefined
  for await (const { line, fields } of splitRecords(path)) {
    if (fields instanceof RowFault) yield { line, row: fields }
    else if (header !== undefined) yield { line, row: rowOf(header, fields) }
    else {
      const named = readHeader(fields)
      if (named instanceof RowFault) return yield { line, row: named }
      header = named
    }
  }
}

function readHeader(fields: readonly Buffer[]): string[] | RowFault {
  const names: string[] = []
  for (const field of fields) {
    const name = decodeUtf8(field)
    if (name instanceof RowFault) return name
    names.push(name)
  }
  if (new Set(names).size < names.length) return new RowFault('duplicate_column')
  return FORMATS.some((columns) => columns.every((column) => names.includes(column))) ? names : new RowFault('unknown_columns')
}

function rowOf(header: readonly string[], fields: readonly Buffer[]): unknown {
  if (fields.length !== header.length) return new RowFault('wrong_column_count', `${fields.length} beside ${header.length}`)
  const row: Record<string, unknown> = {}
  for (const [i, name] of header.entries()) {
    const text = decodeUtf8(fields[i]!)
    if (text instanceof RowFault) return text
    if (text === '') continue
    const value = name === 'messages' ? parseJson(text) : text
    if (value instanceof RowFault) return value
    row[name] = value
  }
  return row
}

interface CsvRecord {
  readonly line: number
  readonly fields: readonly Buffer[] | RowFault
}

/** A byte machine: quotes, commas and newlines are single bytes in UTF-8, so a record that is not UTF-8 ends where it should. */
class RecordSplitter {
  line = 1
  #start = 1
  #fields: Buffer[] = []
  #field = Buffer.alloc(4096)
  #length = 0
  #nBytes = 0
  #state: 'start' | 'plain' | 'quoted' | 'quote' = 'start'
  #fault: RowFault | undefined

  /** @returns a record when this byte ends one */
  push(byte: number): CsvRecord | undefined {
    this.#nBytes++
    if (byte === NEWLINE) this.line++
    if (byte === NEWLINE && this.#state !== 'quoted') return this.#endRecord()
    if (this.#state === 'quoted') {
      if (byte === QUOTE) this.#state = 'quote'
      else this.#append(byte)
    } else if (byte === COMMA) this.#endField()
    else if (byte === QUOTE && this.#state === 'start') this.#state = 'quoted'
    else if (byte === QUOTE && this.#state === 'quote') {
      this.#append(byte)
      this.#state = 'quoted'
    } else if (this.#state === 'quote') {
      if (byte !== RETURN) this.#fault ??= new RowFault('invalid_csv')
    } else {
      this.#append(byte)
      this.#state = 'plain'
    }
    return undefined
  }

  /** The record that the end of the file ends. */
  end(): CsvRecord | undefined {
    if (this.#state === 'quoted') return { line: this.#start, fields: new RowFault('invalid_csv') }
    return this.#nBytes === 0 ? undefined : this.#endRecord()
  }

  #append(byte: number): void {
    if (this.#nBytes > MAX_RECORD_BYTES) {
      this.#fault ??= new RowFault('line_too_long')
      return
    }
    if (this.#length === this.#field.length) this.#field = Buffer.concat([this.#field, Buffer.alloc(this.#field.length)])
    this.#field[this.#length++] = byte
  }

  #endField(): void {
    this.#fields.push(Buffer.from(this.#field.subarray(0, this.#length)))
    this.#length = 0
    this.#state = 'start'
  }

  #endRecord(): CsvRecord | undefined {
    // The return of a CRLF. One inside quotes belongs to the text.
    if (this.#state === 'plain' && this.#field[this.#length - 1] === RETURN) this.#length--
    const isWhite = this.#fields.length === 0 && this.#state !== 'quote' && this.#field.subarray(0, this.#length).every((b) => b <= 0x20)
    this.#endField()
    const record = { line: this.#start, fields: this.#fault ?? this.#fields }
    this.#fields = []
    this.#nBytes = 0
    this.#start = this.line
    this.#fault = undefined
    return isWhite ? undefined : record
  }
}

async function* splitRecords(path: string): AsyncGenerator<CsvRecord> {
  const splitter = new RecordSplitter()
  for await (const chunk of withoutBom(path)) {
    for (const byte of chunk) {
      const record = splitter.push(byte)
      if (record !== undefined) yield record
    }
  }
  const last = splitter.end()
  if (last !== undefined) yield last
}
