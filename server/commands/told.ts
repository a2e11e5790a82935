// A command's failure, told in one line: what people can act on, without a stack.

import { toDiskError } from '../../engine/durable.js'
import { EngineError } from '../../engine/errors.js'

/** 0, or 1 after saying on standard error what went wrong. Bugs are thrown on. */
export async function told(run: () => Promise<void>): Promise<number> {
  try {
    await run()
    return 0
  } catch (error) {
    const known = toDiskError(error)
    if (!(known instanceof EngineError)) throw error
    process.stderr.write(`lorikeet: ${known.message}\n`)
    return 1
  }
}
