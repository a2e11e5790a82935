import t from 'tap'
import { StopStrings } from '../../engine/stop-strings.js'
import { randomFrom } from './drive.js'

function run(stops: readonly string[], parts: readonly string[], include = false): { shown: string[]; stopped: string | null } {
  const machine = new StopStrings(stops, { include })
  const shown = parts.map((part) => machine.push(part))
  shown.push(machine.stopped === null ? machine.flush() : '')
  return { shown, stopped: machine.stopped }
}

t.test('without stop strings all text passes at once', async (t) => {
  t.same(run([], ['a', 'b']), { shown: ['a', 'b', ''], stopped: null })
})

t.test('the beginning of a stop string is held back until it is certain', async (t) => {
  t.same(run(['END'], ['xE', 'N', 'Dy']), { shown: ['x', '', '', ''], stopped: 'END' })
  t.same(run(['END'], ['xE', 'N', 'x', 'E']), { shown: ['x', '', 'ENx', '', 'E'], stopped: null })
})

t.test('a stop string can be included', async (t) => {
  t.same(run(['END'], ['xE', 'NDy'], true), { shown: ['x', 'END', ''], stopped: 'END' })
})

t.test('of several, the one complete first wins, and of those the longest', async (t) => {
  t.equal(run(['abcd', 'bc'], ['abcd']).stopped, 'bc')
  t.equal(run(['bc', 'abc'], ['xabc']).stopped, 'abc')
})

t.test('overlapping beginnings are not lost', async (t) => {
  t.same(run(['aab'], ['a', 'a', 'a', 'b']), { shown: ['', '', 'a', '', ''], stopped: 'aab' })
})

t.test('nothing comes after a stop', async (t) => {
  const machine = new StopStrings(['x'], { include: false })
  machine.push('x')
  t.equal(machine.push('more'), '')
})

t.test('however random text is cut, the same text is shown and no part of a stop leaks', async (t) => {
  const random = randomFrom(11)
  for (let round = 0; round < 2000; round++) {
    const text = Array.from({ length: 1 + random(30) }, () => 'abc'[random(3)]).join('')
    const stops = Array.from({ length: 1 + random(3) }, () => Array.from({ length: 1 + random(4) }, () => 'abc'[random(3)]).join(''))
    const whole = run(stops, [...text])
    const parts: string[] = []
    for (let at = 0; at < text.length;) {
      const n = 1 + random(6)
      parts.push(text.slice(at, at + n))
      at += n
    }
    const cut = run(stops, parts)
    if (cut.shown.join('') !== whole.shown.join('') || cut.stopped !== whole.stopped) t.fail(JSON.stringify({ text, stops, parts }))
    if (stops.some((stop) => whole.shown.join('').includes(stop))) t.fail(`a stop string shows: ${JSON.stringify({ text, stops })}`)
  }
  t.pass('2,000 texts')
})
