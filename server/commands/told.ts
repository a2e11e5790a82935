// A command's failure, told in one line: what people can act on, without a stack.

import { EngineError } from '../../engine/errors.js'
import { asDiskFull } from '../../adapters/registry.js'

/** 0, or 1 after saying on standard error what went wrong. Bugs are thrown on. */
export async function told(run: () => Promise<void>): Promise<number> {
  try {
    await run()
    return 0
  } catch (error) {
    const known = asDiskFull(error)
    if (!(known instanceof EngineError)) throw error
    process.stderr.write(`lorikeet: ${known.message}\n`)
    return 1
  }
}
