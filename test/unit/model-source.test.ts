import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { resolveModel } from '../../engine/model-source.js'

const root = mkdtempSync(join(tmpdir(), 'lorikeet-'))
const write = (path: string, text: string) => {
  mkdirSync(join(root, path, '..'), { recursive: true })
  writeFileSync(join(root, path), text)
  return join(root, path)
}

t.test('a directory with config.json is a checkpoint with its own defaults and stop ids', async (t) => {
  write('hf/config.json', '{}')
  write('hf/generation_config.json', '{"eos_token_id": [1, 106], "top_k": 64, "top_p": 0.95, "do_sample": true, "temperature": "hot"}')
  const source = resolveModel({ model: join(root, 'hf') })
  t.equal(source.path, join(root, 'hf'))
  t.same(source.eosTokenIds, [1, 106])
  t.same(source.defaultSampling, { topK: 64, topP: 0.95 })
  t.equal(await source.loadTokenizer(), null)
})

t.test('a model that does not sample by its own word is greedy unless asked otherwise', async (t) => {
  write('greedy/config.json', '{}')
  write('greedy/generation_config.json', '{"do_sample": false, "temperature": 0.7, "top_k": 64}')
  t.same(resolveModel({ model: join(root, 'greedy') }).defaultSampling, { temperature: 0, topK: 64 })
})

t.test('one end token may stand without a list', async (t) => {
  write('one/config.json', '{}')
  write('one/generation_config.json', '{"eos_token_id": 1}')
  t.same(resolveModel({ model: join(root, 'one') }).eosTokenIds, [1])
})

t.test('a .gguf file, alone or the only one in a directory, is opened itself', async (t) => {
  const path = write('gguf/model.gguf', 'GGUF')
  t.equal(resolveModel({ model: path }).path, path)
  t.equal(resolveModel({ model: join(root, 'gguf') }).path, path)
  write('gguf/second.gguf', 'GGUF')
  t.throws(() => resolveModel({ model: join(root, 'gguf') }), { code: 'MODEL_NOT_FOUND', message: /several/ })
})

t.test('an id is looked up in the hub cache, at the revision of main', async (t) => {
  write('hub/models--org--name/refs/main', 'abc123\n')
  write('hub/models--org--name/snapshots/abc123/config.json', '{}')
  write('hub/models--org--name/snapshots/zzz/config.json', '{}')
  t.equal(resolveModel({ model: 'org/name', hfCacheDir: join(root, 'hub') }).path, join(root, 'hub/models--org--name/snapshots/abc123'))
})

t.test('names that lead out of the cache, and models that are nowhere, are not found', async (t) => {
  write('hub/models--org--evil/refs/main', '../../../hf')
  for (const model of ['org/none', '../hub', 'org/../../hf', 'org/evil', 'a/b/c', '/absent', 'org/..']) {
    t.throws(() => resolveModel({ model, hfCacheDir: join(root, 'hub') }), { code: 'MODEL_NOT_FOUND', param: 'model' }, model)
  }
})

t.test('a malformed JSON file is named', async (t) => {
  write('bad/config.json', '{}')
  for (const text of ['{', '[]', 'null']) {
    write('bad/generation_config.json', text)
    t.throws(() => resolveModel({ model: join(root, 'bad') }), { code: 'FILE_INVALID', message: /generation_config.json/ })
  }
})

t.test('a random model has no tokenizer', async (t) => {
  const source = resolveModel({ model: 'random:gemma-3-1b' })
  t.equal(source.path, 'random:gemma-3-1b')
  t.equal(await source.loadTokenizer(), null)
})
