import { createHash } from 'node:crypto'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { fileOrder, formatPeftConfig, readPeftConfig, safetensorsHeader, writePeftAdapter, type PeftTensor } from '../../adapters/peft.js'
import { temporaryFolder } from './adapters-fixtures.js'

const GOLDENS = '../shared/goldens/adapters'
const skip = existsSync(GOLDENS) ? false : `${GOLDENS} is not here`

t.test('a config that PEFT wrote comes out of reading and writing byte for byte', { skip }, async (t) => {
  const folders = readdirSync(GOLDENS).filter((name) => existsSync(join(GOLDENS, name, 'adapter_config.json')) && name !== 'minimal-config')
  t.ok(folders.length >= 9)
  for (const name of folders) {
    const text = readFileSync(join(GOLDENS, name, 'adapter_config.json'), 'utf8')
    t.equal(formatPeftConfig(await readPeftConfig(join(GOLDENS, name))), text, name)
  }
})

t.test('an adapter of the 270M base has the file layout of PEFT, header byte for byte', async (t) => {
  const shapes: Record<string, [nIn: number, nOut: number]> = {
    'mlp.down_proj': [2048, 640], 'mlp.gate_proj': [640, 2048], 'mlp.up_proj': [640, 2048],
    'self_attn.k_proj': [640, 256], 'self_attn.o_proj': [1024, 640], 'self_attn.q_proj': [640, 1024], 'self_attn.v_proj': [640, 256],
  }
  const tensors = new Map<string, Pick<PeftTensor, 'dtype' | 'shape'>>()
  for (let layer = 0; layer < 18; layer++) {
    for (const [module, [nIn, nOut]] of Object.entries(shapes)) {
      const key = `base_model.model.model.layers.${layer}.${module}`
      tensors.set(`${key}.lora_B.weight`, { dtype: 'F32', shape: [nOut, 16] })
      tensors.set(`${key}.lora_A.weight`, { dtype: 'F32', shape: [16, nIn] })
    }
  }
  const header = safetensorsHeader(fileOrder(tensors), tensors)
  t.equal(header.length, 8 + 32_992)
  t.equal(createHash('sha256').update(header).digest('hex'), 'c7ae3ff4965cbf6da60ebc4d92b27f4876ef421422c32201270cf79717c55efb')
})

t.test('what was written is read back, and a config of another kind is refused', async (t) => {
  const folder = temporaryFolder(t)
  const data = Buffer.from(new Float32Array([1, 2, 3, 4]).buffer)
  await writePeftAdapter(folder, { r: 2, lora_alpha: 4, target_modules: ['v_proj', 'q_proj'] },
    new Map([['x', { dtype: 'F32', shape: [2, 2], data }]]))
  t.match(await readPeftConfig(folder), { r: 2, lora_alpha: 4, target_modules: ['q_proj', 'v_proj'], use_dora: false })
  const file = readFileSync(join(folder, 'adapter_model.safetensors'))
  t.ok(file.subarray(-16).equals(data))
  const other = join(folder, 'other')
  await t.rejects(readPeftConfig(other), { code: 'ADAPTER_NOT_FOUND' })
  await mkdir(other)
  for (const text of ['{', '[]', 'null', '{"peft_type":"LOHA","r":1}', '{"peft_type":"LORA","r":"1","lora_alpha":1}',
    '{"peft_type":"LORA","r":1.5,"lora_alpha":1}']) {
    await writeFile(join(other, 'adapter_config.json'), text)
    await t.rejects(readPeftConfig(other), { code: 'ADAPTER_INVALID' }, text)
  }
})
