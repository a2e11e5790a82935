import { join } from 'node:path'
import { readdirSync } from 'node:fs'
import t from 'tap'
import { RowFault } from '../../engine/train/data-error.js'
import { listDataFiles, readDataFile } from '../../engine/train/data-files.js'
import { readRow } from '../../engine/train/row-format.js'
import { resolveTrainConfig } from '../../engine/train/config.js'
import { prepareDataset } from '../../engine/train/dataset.js'
import {
  BOS, END, EOS, START, VOCAB_SIZE, answer, byteEncoder, bytes, chat, jsonl, system, temporaryFolder, user
} from './train-fixtures.js'

const folder = temporaryFolder()
t.teardown(() => folder.remove())

/** Faults of a file as "line kind", with the number of good rows last. */
async function faults(name: string, content: string | Uint8Array): Promise<string[]> {
  const found: string[] = []
  let nGood = 0
  for await (const { line, row } of readDataFile(folder.write(name, content))) {
    try {
      await byteEncoder.encode(readRow(row))
      nGood++
    } catch (error) {
      if (!(error instanceof RowFault)) throw error
      found.push(`${line} ${error.kind}`)
    }
  }
  return [...found, `${nGood} good`]
}

const good = chat(user('x'), answer('y'))

t.test('a bad row is named by line and kind, and the rows around it are read', async (t) => {
  const cases: [string, unknown][] = [
    ['invalid_json', '{"text": "a",,}'], ['invalid_json', '{"text": undefined}'], ['invalid_json', '{"text": +1}'],
    ['invalid_json', '{"text": "a"}]'], ['invalid_json', '\u00a0'], ['invalid_json', '{"text": 0x10}'],
    ['invalid_utf8', '{"text": "half \\ud800 pair"}'], ['invalid_utf8', '{"messages": [{"role": "user", "content": "\\udfff"}]}'],
    ['not_an_object', 'true'], ['not_an_object', '[{"text": "in a list"}]'], ['not_an_object', '-0'],
    ['unknown_columns', { text: null, prompt: 'x' }], ['unknown_columns', { Text: 'case counts' }],
    ['unknown_columns', { completion: 'x' }],
    ['unknown_columns', { toString: 'x', hasOwnProperty: 'y' }],
    ['messages_not_list', { messages: {} }], ['messages_not_list', { messages: 5 }],
    ['messages_not_list', { prompt: [user('x')], completion: 'y' }], ['messages_not_list', { prompt: 'x', completion: [answer('y')] }],
    ['message_not_object', { messages: [[user('x')], answer('y')] }], ['message_not_object', { messages: [3] }],
    ['missing_role', { messages: [{}, answer('y')] }], ['unknown_role', chat({ role: 'developer', content: 'x' }, answer('y'))],
    ['unknown_role', chat({ role: ['user'], content: 'x' }, answer('y'))],
    ['unknown_role', chat(user('x'), { role: 'model', content: 'y' })],
    ['content_not_string', chat(user([{ type: 'text', text: 'parts' }]), answer('y'))],
    ['content_not_string', { text: 7 }],
    ['content_not_string', { text: {} }], ['empty_content', { text: '\u3000 \u2003' }],
    ['empty_content', chat(user('\u0085'), answer('y'))],
    ['empty_content', { instruction: 'x', output: '\n' }], ['bad_alternation', chat(system('s'), system('t'), answer('y'))],
    ['bad_alternation', { prompt: [user('x')], completion: [user('y')] }], ['no_answer', chat(system('s'), user('x'))],
    ['bad_weight', chat(user('x'), answer('y', { weight: -1 }))], ['bad_weight', chat(system('s'), user('x'), answer('y', { weight: [] }))],
    ['bad_weight', chat({ ...system('s'), weight: 0 }, user('x'), answer('y'))],
    ['no_targets', chat(user('x'), answer('y', { weight: 0 }), user('z'), answer('w', { weight: 0 }))],
  ]
  for (const [kind, row] of cases) {
    t.same(await faults('bad.jsonl', jsonl([good, '', row, good])), [`3 ${kind}`, '2 good'], `${kind}: ${JSON.stringify(row)}`)
  }
})

t.test('null columns and unknown ones are ignored, a format further down is found', async (t) => {
  t.same(await faults('good.jsonl', jsonl([
    { messages: null, prompt: null, completion: 'x', text: 'y' }, { ...good, text: 5, prompt: [] },
    { instruction: 'x', input: null, output: 'y', text: null },
    chat({ ...user('x'), name: 'n', weight: null }, answer('y', { weight: null })),
  ])), ['4 good'])
})

t.test('CSV: quotes, separators and newlines in fields; every fault has the line where its record starts', async (t) => {
  t.same(await faults('a.csv', 'instruction,output\r\n"a ""b"", c","x\r\ny"\r\n\r\n"d",e\r\n'), ['2 good'])
  t.same(await faults('b.csv', 'text\n"a\nb"\n"c" d\n"e\nf"\ng"h\n'), ['4 invalid_csv', '3 good'])
  t.same(await faults('c.csv', 'prompt,completion\nx,y\n,y\nx,\n"",y\nx,y,z\n'),
    ['3 unknown_columns', '4 unknown_columns', '5 unknown_columns', '6 wrong_column_count', '1 good'])
  t.same(await faults('d.csv', 'text,text\na,b\n'), ['1 duplicate_column', '0 good'])
  t.same(await faults('e.csv', 'text;other\na;b\n'), ['1 unknown_columns', '0 good'])
  const broken = Buffer.concat([Buffer.from('text\na\n'), Buffer.from([0xff, 0x0a]), Buffer.from('b')])
  t.same(await faults('f.csv', broken), ['3 invalid_utf8', '2 good'])
  t.same(await faults('g.csv', 'messages\n{}\n[]\n"[1"\n'), ['2 messages_not_list', '3 empty_messages', '4 invalid_json', '0 good'])
  t.same(await faults('h.csv', 'text\n"never closed\nmore\n'), ['2 invalid_csv', '0 good'])
  t.same(await faults('i.csv', '\ufeff\n\n'), ['null empty_file', '0 good'])
})

t.test('a return inside quotes is text, one before the newline is not', async (t) => {
  const rows: unknown[] = []
  for await (const { row } of readDataFile(folder.write('r.csv', 'text,id\r\n"a\r",1\r\n"b\r"\n,2\r\n"c","d\r"\n'))) rows.push(row)
  t.match(rows, [{ text: 'a\r', id: '1' }, { kind: 'wrong_column_count' }, { id: '2' }, { text: 'c', id: 'd\r' }])
})

t.test('a line of more than 8 MiB is refused, the next one read', async (t) => {
  const huge = Buffer.alloc((8 << 20) + 10, 'x')
  t.same(await faults('huge.jsonl', Buffer.concat([huge, Buffer.from(`\n${JSON.stringify(good)}\n`)])), ['1 line_too_long', '1 good'])
  t.same(await faults('huge.csv', Buffer.concat([Buffer.from('text\n"'), huge, Buffer.from('"\nnext\n')])), ['2 line_too_long', '1 good'])
})

t.test('what is no data set says so', async (t) => {
  await t.rejects(listDataFiles([join(folder.path, 'absent.jsonl')]), { code: 'DATA_INVALID', message: /there is no file/ })
  await t.rejects(listDataFiles([folder.write('notes.txt', 'x')]), { code: 'DATA_INVALID', message: /\.jsonl, \.csv, \.parquet/ })
  const other = temporaryFolder()
  t.teardown(() => other.remove())
  other.write('notes.md', 'x')
  await t.rejects(listDataFiles([other.path]), { code: 'DATA_INVALID', message: /holds no/ })
})

t.test('control tokens in what people wrote stay text', async (t) => {
  const { tokenIds } = await byteEncoder.encode(readRow(chat(user('<end_of_turn>\n<bos>'), answer('<start_of_turn>model'))))
  t.same(tokenIds, [BOS, START, ...bytes('user\n<end_of_turn>\n<bos>'), END, ...bytes('\n'), START,
    ...bytes('model\n<start_of_turn>model'), END, ...bytes('\n')])
  const plain = await byteEncoder.encode(readRow({ text: '<bos>a<eos>b<eos>' }))
  t.same(plain.tokenIds, [BOS, ...bytes('a<eos>b'), EOS])
  t.same((await byteEncoder.encode(readRow({ text: '<eos>' }))).tokenIds, [BOS, EOS])
  const split = await byteEncoder.encode(readRow({ prompt: '<bos>p', completion: 'c<eos>' }))
  t.same(split.targets.completion, [[2, 4]])
})

function config(values: object = {}) {
  return resolveTrainConfig({ preset: 'guide', loss_on: 'assistant', ...values })
}

async function prepare(rows: readonly unknown[], values: object = {}, validation?: readonly unknown[]) {
  const file = folder.write('train.jsonl', jsonl(rows))
  const validationFiles = validation === undefined ? undefined : [folder.write('validation.jsonl', jsonl(validation))]
  const request = { id: 'run', config: config(values), trainFiles: [file], validationFiles, outputDir: folder.path }
  return prepareDataset(request, { encoder: byteEncoder, vocabSize: VOCAB_SIZE })
}

t.test('bad rows stop a run with file, line and reason, or are left out where that was asked for', async (t) => {
  const rows = [good, { text: 'no assistant here' }, '{', good]
  await t.rejects(prepare(rows), { code: 'DATA_INVALID', message: /2 rows .*train\.jsonl:2: .*loss_on all.*train\.jsonl:3: /s })
  t.notOk(readdirSync(folder.path).includes('samples.tmp'), 'nothing is left of it')
  const { store, train, counts } = await prepare(rows, { bad_rows: 'skip' })
  t.equal(train.length, 2)
  t.match(counts, { nRefused: 2, refused: [{ line: 2, kind: 'no_such_loss' }, { line: 3, kind: 'invalid_json' }] })
  await store.close()
  const tooLong = { loss_on: 'all', max_length: 2, truncation: 'drop' }
  await t.rejects(prepare([{ text: 'x' }], tooLong), { code: 'DATA_INVALID', message: /no sample/ })
  await t.rejects(prepare([{ text: 'xyz' }], { loss_on: 'all', max_length: 3, truncation: 'error' }), { message: /5 tokens, max_length 3/ })
})

t.test('samples come back from the file as they were, targets marked', async (t) => {
  const { store, train, counts } = await prepare([good, chat(user('a'), answer('b', { weight: 0 }), user('c'), answer('d'))])
  const [first, second] = [await store.read(0), await store.read(1)]
  t.same([...first].map((id) => (id < 0 ? ~id : id)), (await byteEncoder.encode(readRow(good))).tokenIds)
  t.same([...first].filter((id) => id >= 0), [...bytes('y'), END, ...bytes('\n')])
  t.same([...second].filter((id) => id >= 0), [...bytes('d'), END, ...bytes('\n')])
  t.same([...train], [0, 1])
  t.match(counts, { targetTokens: 6, tokens: first.length + second.length, truncated: 0, dropped: 0 })
  await store.close()
})

t.test('the split is drawn by the seed, and no sample is on both sides', async (t) => {
  const rows = Array.from({ length: 50 }, (_, i) => chat(user(`q${i}`), answer(`a${i}`)))
  const splitOf = async (values: object, validation?: readonly unknown[]) => {
    const data = await prepare(rows, values, validation)
    await data.store.close()
    return { train: [...data.train], validation: [...data.validation], hash: data.hash }
  }
  const one = await splitOf({ validation_split: 0.1, seed: 1 })
  t.equal(one.validation.length, 5)
  t.same([...one.train, ...one.validation].sort((a, b) => a - b), rows.map((_, i) => i))
  t.same(await splitOf({ validation_split: 0.1, seed: 1 }), one)
  t.not((await splitOf({ validation_split: 0.1, seed: 2 })).validation.join(), one.validation.join())
  t.same((await splitOf({}, [good])).validation, [50])
  t.not((await splitOf({}, [good])).hash, (await splitOf({})).hash)
  t.equal((await splitOf({ validation_split: 0.9, seed: 1 })).train.length, 5)
  const alone = await prepare([good], { validation_split: 0.5 })
  t.same([alone.train.length, alone.validation.length], [1, 0], 'one sample is left to train on')
  const [together, apart] = [await prepare([good, good], {}), await prepare([good], {}, [good])]
  t.not(together.hash, apart.hash, 'the same samples on other sides are other data')
  for (const { store } of [alone, together, apart]) await store.close()
})

t.test('a full disk is said as such', { skip: process.platform !== 'linux' }, async (t) => {
  const full = join('/dev', 'full')
  const { TokenStore } = await import('../../engine/train/token-store.js')
  const store = await TokenStore.create(full)
  await store.append(Int32Array.from({ length: 10 }, (_, i) => i), [[1, 10]])
  await t.rejects(store.flush(), { code: 'DISK_FULL' })
})
