// Kills a publisher again and again at random moments, and checks after each kill that no version is torn and none that was
// acknowledged is lost. SIGKILL keeps the page cache: what it proves is atomicity; that flushes come in order is a unit test.

import { fork } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { AdapterStore } from '../adapters/store.js'

const USAGE = `usage: npm run kill-publish -- [--kills 400] [--max-ms 40]
  --kills   publishers to kill
  --max-ms  longest life of a publisher after its first acknowledgement, ms`

export interface KillReport {
  readonly kills: number
  readonly acknowledged: number
  /** Kills that left a temporary, or a version without record: they hit a publish half way. */
  readonly midPublish: number
  readonly torn: string[]
  readonly lost: string[]
}

const WEIGHT_BYTES = 200_000
const NAME = 'sql'

/** Content that says its own number, and whether it is whole. */
function weightsOf(serial: number): Buffer {
  const seed = createHash('sha256').update(String(serial)).digest()
  return Buffer.alloc(WEIGHT_BYTES, Buffer.concat([Buffer.from(`${serial}\n`), seed]))
}

/** The child: publishes one version after another and says each number once publish() has returned. */
async function publishForever(folder: string, firstSerial: number): Promise<never> {
  const store = await AdapterStore.open(folder)
  for (let serial = firstSerial; ; serial++) {
    const staging = await store.stage()
    await staging.write('adapter_config.json', piecesOf(Buffer.from(JSON.stringify({ serial }))))
    await staging.write('adapter_model.safetensors', piecesOf(weightsOf(serial)))
    await store.publish(NAME, staging, { base: 'base', source: 'test', rank: 8, nTensors: 1, warnings: [] })
    process.send!(serial)
  }
}

async function* piecesOf(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let start = 0; start < bytes.length; start += 64 << 10) yield bytes.subarray(start, start + (64 << 10))
}

export async function killPublishers(kills: number, maxMs: number, say: (line: string) => void = () => {}): Promise<KillReport> {
  const folder = await mkdtemp(join(tmpdir(), 'lorikeet-kill-'))
  const report = { kills: 0, acknowledged: 0, midPublish: 0, torn: [] as string[], lost: [] as string[] }
  const acknowledged = new Set<number>()
  try {
    for (let serial = 0; report.kills < kills; report.kills++) {
      const before = acknowledged.size
      await killOne(folder, serial, maxMs, acknowledged)
      if (acknowledged.size === before) report.lost.push(`publisher ${report.kills} acknowledged nothing`)
      await check(folder, acknowledged, report)
      serial = Math.max(...acknowledged) + 2              // the number after the last may or may not be there
      if (report.kills % 50 === 49) {
        say(`${report.kills + 1} kills, ${report.midPublish} in the midst of a publish, ${acknowledged.size} acknowledged, ` +
          `${report.torn.length} torn, ${report.lost.length} lost`)
        await (await AdapterStore.open(folder)).remove(NAME)
        report.acknowledged += acknowledged.size
        acknowledged.clear()
        serial = 0
      }
    }
    return { ...report, acknowledged: report.acknowledged + acknowledged.size }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function killOne(folder: string, serial: number, maxMs: number, acknowledged: Set<number>): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ['--publisher', folder, '--serial', String(serial)])
  const exited = new Promise((resolve) => child.once('exit', resolve))
  const first = new Promise((resolve) => child.once('message', resolve))
  child.on('message', (done) => acknowledged.add(done as number))
  await Promise.race([first, exited])
  await sleep(Math.random() * maxMs)
  child.kill('SIGKILL')
  await exited
}

async function check(folder: string, acknowledged: ReadonlySet<number>,
  report: { midPublish: number; torn: string[]; lost: string[] }): Promise<void> {
  const store = await AdapterStore.open(folder)
  if (store.swept.length > 0) report.midPublish += 1
  const present = new Set<number>()
  for (const version of store.versions(NAME)) {
    const serial = Number((JSON.parse(await readFile(join(version.path, 'adapter_config.json'), 'utf8')) as { serial: number }).serial)
    const weights = await readFile(join(version.path, 'adapter_model.safetensors'))
    if (weights.equals(weightsOf(serial))) present.add(serial)
    else report.torn.push(`version ${serial}`)
  }
  for (const serial of acknowledged) if (!present.has(serial)) report.lost.push(`version ${serial}`)
  const current = await readFile(join(store.find(NAME).path, 'adapter_config.json'), 'utf8')
  const { serial } = JSON.parse(current) as { serial: number }
  const last = Math.max(...acknowledged)
  if (serial < last) report.lost.push(`the name stands for ${serial} after ${last} was acknowledged`)
  await writeFile(join(folder, '.probe'), '')            // a folder that cannot be written any more would pass everything above
  await rm(join(folder, '.probe'))
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      kills: { type: 'string', default: '400' }, 'max-ms': { type: 'string', default: '40' }, help: { type: 'boolean' },
      publisher: { type: 'string' }, serial: { type: 'string', default: '0' },
    },
  })
  if (values.publisher !== undefined) await publishForever(values.publisher, Number(values.serial))
  if (values.help) return console.log(USAGE)
  const startedAt = performance.now()
  const { kills, acknowledged, midPublish, torn, lost } = await killPublishers(Number(values.kills), Number(values['max-ms']), console.log)
  const seconds = (performance.now() - startedAt) / 1000
  console.log(`${kills} kills in ${seconds.toFixed(0)} s, ${midPublish} in the midst of a publish; ` +
    `${acknowledged} versions acknowledged, ${torn.length} torn, ${lost.length} lost`)
  for (const line of [...torn, ...lost]) console.log(line)
  process.exitCode = torn.length + lost.length > 0 ? 1 : 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
