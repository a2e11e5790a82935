// How a model's tensors are spread over safetensors files: in order, a new file where the next tensor would pass the limit.

export interface SizedTensor {
  readonly name: string
  readonly bytes: number
}

export interface Shard<T extends SizedTensor> {
  readonly file: string
  readonly tensors: readonly T[]
}

/** A tensor larger than the limit gets a file of its own: a tensor is never cut. */
export function planShards<T extends SizedTensor>(tensors: readonly T[], maxBytes: number): Shard<T>[] {
  const groups: T[][] = [[]]
  let bytes = 0
  for (const tensor of tensors) {
    if (bytes > 0 && bytes + tensor.bytes > maxBytes) {
      groups.push([])
      bytes = 0
    }
    groups.at(-1)!.push(tensor)
    bytes += tensor.bytes
  }
  const five = (n: number) => String(n).padStart(5, '0')
  const nameOf = (i: number) => (groups.length === 1 ? 'model.safetensors' : `model-${five(i + 1)}-of-${five(groups.length)}.safetensors`)
  return groups.map((group, i) => ({ file: nameOf(i), tensors: group }))
}

/** model.safetensors.index.json */
export function formatIndex(shards: ReadonlyArray<Shard<SizedTensor>>): string {
  const entries = shards.flatMap(({ file, tensors }) => tensors.map(({ name }) => [name, file] as const))
  const total = shards.reduce((sum, { tensors }) => sum + tensors.reduce((inner, { bytes }) => inner + bytes, 0), 0)
  const weightMap = Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
  return `${JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2)}\n`
}
