import t from 'tap'
import { OTHER, TopNames } from '../../server/plugins/top-names.js'

t.test('as many names as fit are named, others are one', async (t) => {
  const names = new TopNames({ max: 2 })
  for (const name of ['a', 'b', 'c']) names.use(name, 0)
  t.same(['a', 'b', 'c', 'never used'].map((name) => names.labelOf(name)), ['a', 'b', OTHER, OTHER])
})

t.test('a name that is used clearly more takes the place of the least used, which is told', async (t) => {
  const dropped: string[] = []
  const names = new TopNames({ max: 2, onDrop: (name) => dropped.push(name) })
  for (const name of ['a', 'a', 'a', 'a', 'b', 'b', 'c', 'c']) names.use(name, 0)
  t.equal(names.labelOf('c'), OTHER, 'as often as b is not enough')
  names.use('c', 0)
  t.same(['a', 'b', 'c'].map((name) => names.labelOf(name)), ['a', OTHER, 'c'])
  t.same(dropped, ['b'])
})

t.test('names of equal use do not take turns', async (t) => {
  let nDropped = 0
  const names = new TopNames({ max: 8, onDrop: () => nDropped++ })
  for (let i = 0; i < 6_400; i++) names.use(`adapter-${i % 64}`, 0)
  t.equal(nDropped, 0)
})

t.test('yesterday\'s use gives way to today\'s', async (t) => {
  const names = new TopNames({ max: 1, halfLifeMs: 1_000 })
  for (let i = 0; i < 100; i++) names.use('old', 0)
  names.use('new', 5_000)
  t.equal(names.labelOf('new'), OTHER)
  names.use('new', 10_000)
  t.equal(names.labelOf('new'), 'new')
})

t.test('no places: every name is another', async (t) => {
  const names = new TopNames({ max: 0 })
  names.use('a')
  t.equal(names.labelOf('a'), OTHER)
})
