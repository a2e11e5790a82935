// Runs the commands of the set-up and shows how far they are: one live line on a terminal, a line a step elsewhere.

import { spawn } from 'node:child_process'

const TAIL_LINES = 40
const LIVE_MS = 200
const PLAIN_MS = 10_000

/** A step that failed for a reason the user can act on; anything else thrown is a bug of the set-up. */
export class StepFailed extends Error {}

const running = new Map()   // step name -> { startedAt, note }
let timer
const live = process.stdout.isTTY === true

export const progress = {
  begin() {
    timer = setInterval(draw, live ? LIVE_MS : PLAIN_MS)
    timer.unref()
  },
  end() {
    clearInterval(timer)
    clearLine()
  },
  start(name) {
    running.set(name, { startedAt: performance.now(), note: '' })
    if (!live) console.log(`${name} ...`)
  },
  note(name, note) {
    const step = running.get(name)
    if (step) step.note = note
  },
  finish(name, word = 'done') {
    const { startedAt } = running.get(name)
    running.delete(name)
    clearLine()
    console.log(`${name}: ${word} (${((performance.now() - startedAt) / 1000).toFixed(1)} s)`)
  }
}

function draw() {
  const text = [...running].map(([name, { startedAt, note }]) =>
    `${name} ${note === '' ? '' : `${note} `}${Math.round((performance.now() - startedAt) / 1000)} s`).join(' | ')
  if (text === '') return
  if (live) process.stdout.write(`\r\x1b[2K${text.slice(0, (process.stdout.columns ?? 80) - 1)}`)
  else console.log(text)
}

function clearLine() {
  if (live) process.stdout.write('\r\x1b[2K')
}

/**
 * Runs a command; its output is kept back and its tail shown when it fails. "[12/80]" and "[ 15%]" in it (Ninja, make)
 * become the step's note. @throws StepFailed
 */
export function runCommand(name, command, args, { advice = '', env = {}, cwd } = {}) {
  progress.start(name)
  return new Promise((resolve, reject) => {
    const output = []
    const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } })
    const take = (chunk) => {
      output.push(chunk)
      const done = chunk.match(/\[\s*(\d+\/\d+|\d+%)\]/g)?.at(-1)
      if (done) progress.note(name, done)
    }
    child.stdout.setEncoding('utf8').on('data', take)
    child.stderr.setEncoding('utf8').on('data', take)
    child.on('error', (error) => reject(new StepFailed(`${name}: ${command} could not be run (${error.message})`)))
    child.on('close', (code, signal) => {
      if (code === 0) {
        progress.finish(name)
        resolve(output.join(''))
        return
      }
      progress.finish(name, 'FAILED')
      const tail = output.join('').trimEnd().split('\n').slice(-TAIL_LINES).join('\n')
      const how = signal ? `was ended by ${signal}` : `exited with ${code}`
      reject(new StepFailed(`${name}: ${command} ${how}${advice ? ` (${advice})` : ''}\n${tail}`))
    })
  })
}
