import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { EventFile, crc32c, frame } from '../../engine/train/event-file.js'
import { temporaryFolder } from './train-fixtures.js'

t.test('the checksum is CRC-32C', async (t) => {
  t.equal(crc32c(Buffer.from('123456789')), 0xe3069283)
  t.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa, 'RFC 3720, B.4')
})

/** Wire format, read by its own rules: [field, wire type, value]. */
function fields(data: Buffer): [number, number | Buffer][] {
  const found: [number, number | Buffer][] = []
  let at = 0
  const varint = () => {
    let value = 0
    for (let shift = 1; ; shift *= 128) {
      const byte = data[at++]!
      value += (byte & 127) * shift
      if (byte < 128) return value
    }
  }
  while (at < data.length) {
    const key = varint()
    const wire = key & 7
    if (wire === 0) found.push([key >> 3, varint()])
    else if (wire === 1) found.push([key >> 3, data.readDoubleLE((at += 8) - 8)])
    else if (wire === 5) found.push([key >> 3, data.readFloatLE((at += 4) - 4)])
    else {
      const length = varint()
      found.push([key >> 3, data.subarray(at, at += length)])
    }
  }
  return found
}

function records(data: Buffer): Buffer[] {
  const found: Buffer[] = []
  for (let at = 0; at < data.length;) {
    const length = Number(data.readBigUInt64LE(at))
    const record = data.subarray(at + 12, at + 12 + length)
    t.same(frame(record), data.subarray(at, at + 16 + length), 'the checksums fit')
    found.push(record)
    at += 16 + length
  }
  return found
}

t.test('scalars come back, after a version and a session that takes back what came after its step', async (t) => {
  const folder = temporaryFolder()
  t.teardown(() => folder.remove())
  const log = await EventFile.create(folder.path, 300)
  await log.scalars(301, { 'train/loss': 1.5, 'train/learning_rate': 0 })
  await log.scalars(100_000, { 'train/loss': -0.25 })
  await log.close()
  const [name] = readdirSync(folder.path)
  t.match(name, /^events\.out\.tfevents\.\d+/)
  const events = records(readFileSync(join(folder.path, name!))).map((record) => new Map(fields(record)))
  t.equal(events.length, 4)
  t.equal(String(events[0]!.get(3)), 'brain.Event:2')
  t.equal(events[1]!.get(2), 301)
  t.same(fields(events[1]!.get(7) as Buffer), [[1, 1]])
  const scalars = (event: Map<number, number | Buffer>) => fields(event.get(5) as Buffer).map(([, value]) => {
    const [[, tag], [, scalar]] = fields(value as Buffer) as [[number, Buffer], [number, number]]
    return [String(tag), scalar]
  })
  t.same([events[2]!.get(2), scalars(events[2]!)], [301, [['train/loss', 1.5], ['train/learning_rate', 0]]])
  t.same([events[3]!.get(2), scalars(events[3]!)], [100_000, [['train/loss', -0.25]]])
  t.ok(Math.abs(events[3]!.get(1) as number - Date.now() / 1000) < 60, 'seconds since the epoch')
})
