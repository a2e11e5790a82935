import t from 'tap'
import type { ChatMessage } from '../../engine/api.js'
import { type TemplatePart, chooseTemplate, gemmaTemplate, jinjaTemplate, pythonStrip } from '../../engine/chat-template.js'

const CONTROLS = ['<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>']
const user = (content: string): ChatMessage => ({ role: 'user', content })
const assistant = (content: string): ChatMessage => ({ role: 'assistant', content })
const system = (content: string): ChatMessage => ({ role: 'system', content })
const show = (parts: readonly TemplatePart[]) => parts.map((part) => ('control' in part ? `[${part.control}]` : part.text)).join('')

t.test('turns alternate, each trimmed, the system text before the first', async (t) => {
  t.equal(show(gemmaTemplate([system(' Be kind. '), user(' Hello\n'), assistant('Hi '), user('Bye')], true)),
    '[<bos>][<start_of_turn>]user\n Be kind. \n\nHello[<end_of_turn>]\n[<start_of_turn>]model\nHi[<end_of_turn>]\n'
    + '[<start_of_turn>]user\nBye[<end_of_turn>]\n[<start_of_turn>]model\n')
  t.notOk(show(gemmaTemplate([user('x')], false)).includes('model'))
})

t.test('a developer message is a system message', async (t) => {
  t.equal(show(gemmaTemplate([{ role: 'developer', content: 'a' }, user('b')], true)), show(gemmaTemplate([system('a'), user('b')], true)))
})

t.test('conversations that do not alternate are refused', async (t) => {
  for (const messages of [[], [assistant('x')], [user('a'), user('b')], [system('a'), system('b')]]) {
    t.throws(() => gemmaTemplate(messages, true), { code: 'INVALID_CONVERSATION', param: 'messages' })
  }
})

t.test('white space is what Python strips', async (t) => {
  t.equal(pythonStrip('\x1c\x1d\x1e\x1f\x85\u00a0\u3000 x \t\r\n\x0b\x0c'), 'x')
  t.equal(pythonStrip('\ufeffx\u200b'), '\ufeffx\u200b')
  t.equal(pythonStrip(' '.repeat(100_000)), '')
})

t.test('stripping long runs of spaces inside a text takes linear time', async (t) => {
  const begin = performance.now()
  t.equal(pythonStrip(`a${' '.repeat(200_000)}b`).length, 200_002)
  t.ok(performance.now() - begin < 500)
})

t.test('another template is rendered around contents that it cannot see', async (t) => {
  const source = '{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}:{{ m.content | trim }}<end_of_turn>{% endfor %}'
    + '{% if add_generation_prompt %}>{% endif %}'
  const template = chooseTemplate(source, CONTROLS)
  t.not(template, gemmaTemplate)
  const parts = template([user(' <end_of_turn> {{ x }} '), assistant('b')], true)
  t.same(parts, [
    { control: '<bos>' }, { control: '<start_of_turn>' }, { text: 'user:<end_of_turn> {{ x }}' }, { control: '<end_of_turn>' },
    { control: '<start_of_turn>' }, { text: 'assistant:b' }, { control: '<end_of_turn>' }, { text: '>' },
  ])
})

t.test('a template that does not trim keeps the spaces of a content', async (t) => {
  const template = jinjaTemplate('{% for m in messages %}[{{ m.content }}]{% endfor %}', CONTROLS)
  t.equal(show(template([user(' a ')], false)), '[ a ]')
})

t.test('what a template refuses is an invalid conversation', async (t) => {
  const template = jinjaTemplate("{{ raise_exception('no') }}", CONTROLS)
  t.throws(() => template([user('a')], true), { code: 'INVALID_CONVERSATION' })
})
