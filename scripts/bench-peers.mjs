#!/usr/bin/env node
// Our engine beside llama.cpp: same machine, same run, the two in turn. Ratios are what counts.

import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const USAGE = `usage: node scripts/bench-peers.mjs --llama DIR --peer-model Q4_0.gguf --model MODEL [--rounds 3] [--threads N] [--sequences 16]
  --llama       folder with llama-bench and llama-batched-bench
  --peer-model  what llama.cpp runs: the same model in Q4_0
  --model       what Lorikeet runs in NF4: a GGUF file or a checkpoint's folder
  --rounds      each round runs one, then the other; the best of each is compared
  --threads     of both; default: logical processors
  --cache-dir   keeps the NF4 form of the model between runs (default: a temporary folder)
  --head        Lorikeet's output head: auto, bf16, int8 or nf4`

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const GOALS = { decode: 1.1, prefill: 1.4, batch: 2 }

const options = readOptions()
const cacheDir = options['cache-dir'] ?? mkdtempSync(join(tmpdir(), 'lorikeet-peers-'))
try {
  await main()
} finally {
  if (options['cache-dir'] === undefined) rmSync(cacheDir, { recursive: true, force: true })
}

async function main() {
  const { rounds, threads, sequences } = options
  console.log(`${cpus()[0]?.model ?? 'unknown processor'}, ${threads} threads, ${rounds} rounds in turn; best of each\n`)
  const peer = { decode: [], prefill: [], batch: [] }
  const ours = { decode: [], prefill: [], batch: [] }
  for (let round = 0; round < Number(rounds); round++) {
    append(peer, await measurePeer())
    append(ours, await measureOurs())
  }
  const rows = [
    ['decode, 1 sequence', 'decode'],
    ['prefill of 512', 'prefill'],
    [`decode, ${sequences} sequences together`, 'batch']
  ].map(([label, key]) => [label, rate(peer[key]), rate(ours[key]), ratio(peer[key], ours[key]), `>= ${GOALS[key]}`])
  printTable(['tokens/s', 'llama.cpp', 'lorikeet', 'ratio', 'goal'], rows)
}

function readOptions() {
  const text = { type: 'string' }
  const { values } = parseArgs({
    options: {
      llama: text, 'peer-model': text, model: text, rounds: { ...text, default: '3' }, threads: { ...text, default: String(cpus().length) },
      sequences: { ...text, default: '16' }, 'cache-dir': text, head: { ...text, default: 'auto' }, help: { type: 'boolean' }
    }
  })
  const missing = ['llama', 'peer-model', 'model'].filter((name) => values[name] === undefined)
  if (values.help || missing.length > 0) {
    console.log(values.help ? USAGE : `missing: ${missing.map((name) => `--${name}`).join(', ')}\n${USAGE}`)
    process.exit(values.help ? 0 : 2)
  }
  for (const name of ['peer-model', 'model', 'llama']) {
    if (!existsSync(values[name])) {
      console.error(`--${name}: ${values[name]} does not exist`)
      process.exit(2)
    }
  }
  return values
}

async function measurePeer() {
  const model = ['-m', options['peer-model'], '-t', options.threads]
  const bench = await run(join(options.llama, 'llama-bench'), [...model, '-p', '512', '-n', '128', '-r', '3', '-o', 'jsonl'])
  const lines = bench.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line))
  const best = (test) => Math.max(...lines.filter(test).flatMap(({ samples_ts }) => samples_ts))
  const batched = await run(join(options.llama, 'llama-batched-bench'),
    [...model, '-c', '8192', '-b', '2048', '-ub', '512', '-npp', '128', '-ntg', '128', '-npl', options.sequences])
  const row = batched.split('\n').filter((line) => /^\|\s+\d/.test(line)).at(-1).split('|').map((cell) => Number(cell))
  const S_TG = 8                                        // | PP | TG | B | N_KV | T_PP | S_PP | T_TG | S_TG | ...
  return { decode: best(({ n_gen }) => n_gen > 0), prefill: best(({ n_prompt }) => n_prompt > 0), batch: row[S_TG] }
}

async function measureOurs() {
  const script = join(root, 'dist/scripts/bench-peers-engine.js')
  const { threads, sequences, model, head } = options
  const output = await run(process.execPath,
    [script, '--model', model, '--threads', threads, '--sequences', sequences, '--cache-dir', cacheDir, '--head', head])
  return JSON.parse(output.trim().split('\n').at(-1))
}

function append(rates, measured) {
  for (const key of Object.keys(rates)) rates[key].push(measured[key])
}

function rate(rates) {
  return Math.max(...rates).toFixed(1)
}

function ratio(peer, ours) {
  return (Math.max(...ours) / Math.max(...peer)).toFixed(2)
}

function printTable(head, rows) {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i].length)))
  const align = (cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))
  for (const row of [head, ...rows]) console.log(row.map(align).join('  '))
}

function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    let errors = ''
    child.stdout.setEncoding('utf8').on('data', (chunk) => { output += chunk })
    child.stderr.setEncoding('utf8').on('data', (chunk) => { errors = (errors + chunk).slice(-4_000) })
    child.on('error', reject)
    child.on('close', (code) => (code === 0 ? resolve(output) : reject(new Error(`${command} exited with ${code}\n${errors}`))))
  })
}
