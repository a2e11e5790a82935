import t from 'tap'
import { Detokenizer, detokenize } from '../../engine/detokenizer.js'
import { TokenTable } from '../../engine/token-table.js'

// 0..255: bytes; 256: control; 257..: text
const table = TokenTable.fromSpellings(
  [...Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`), '<end>', 'a', '\u2581b', 'é', ''],
  new Set([256]),
)
const bytesOf = (text: string) => [...Buffer.from(text)]

t.test('a run of bytes becomes characters when it ends', async (t) => {
  const detokenizer = new Detokenizer(table, { skipSpecialTokens: true })
  const shown = [...bytesOf('😀'), 257].map((id) => detokenizer.push(id))
  t.same(shown, ['', '', '', '', '😀a'])
})

t.test('a run that is no UTF-8 gives one replacement character a byte, even for the characters it began with', async (t) => {
  t.equal(detokenize(table, [...bytesOf('é'), 0xff, 257], true), '\ufffd\ufffd\ufffda')
  t.equal(detokenize(table, bytesOf('😀').slice(0, 3), true), '\ufffd\ufffd\ufffd')
})

t.test('a skipped control token does not end a run; a shown one does', async (t) => {
  const [first, ...rest] = bytesOf('é')
  t.equal(detokenize(table, [first!, 256, ...rest], true), 'é')
  t.equal(detokenize(table, [first!, 256, ...rest], false), '\ufffd<end>\ufffd')
})

t.test('the word mark is a space, and a byte order mark is kept', async (t) => {
  t.equal(detokenize(table, [258, 257, 258], true), ' ba b')
  t.equal(detokenize(table, bytesOf('\ufeffx'), true), '\ufeffx')
})

t.test('ids beyond the vocabulary and empty tokens give nothing', async (t) => {
  t.equal(detokenize(table, [257, 9999, -1, 260, 257], true), 'aa')
  t.equal(table.text(9999), '')
  t.same([...table.bytes(9999)], [])
})

t.test('however a text is cut, the parts shown are the whole', async (t) => {
  const ids = [...bytesOf('日本語'), 257, ...bytesOf('ü'), 258, 259]
  for (let cut = 0; cut <= ids.length; cut++) {
    const detokenizer = new Detokenizer(table, { skipSpecialTokens: true })
    let shown = ''
    for (const id of ids.slice(0, cut)) shown += detokenizer.push(id)
    t.equal(shown + detokenizer.flush(), detokenize(table, ids.slice(0, cut), true))
    t.ok(detokenize(table, ids, true).startsWith(shown), 'nothing shown is taken back')
  }
})
