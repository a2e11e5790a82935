// Asks for the lock of each folder that comes, keeps it while it lives, and says what came of it.

import { RunLock } from '../../engine/train/run-lock.js'

process.on('message', (folder: string) => void RunLock.acquire(folder).then(
  () => process.send!('held'), (error: { code: string }) => process.send!(error.code)))
process.on('disconnect', () => process.exit())
process.send!('ready')
