// Training as the engine offers it: what a run needs to know, and what it says while it runs. Plain, cloneable data.
// Names are PEFT's and TRL's in camelCase; defaults are the presets' (presets.ts).

export type LossOn = 'all' | 'completion' | 'assistant'
export type SchedulerType = 'constant' | 'constant_with_warmup' | 'linear' | 'cosine' | 'cosine_with_min_lr'

/** Every field resolved: presets, a configuration file, flags and request bodies have been merged before. */
export interface TrainConfig {
  // the adapter
  readonly r: number
  readonly loraAlpha: number
  readonly loraDropout: number
  readonly useRslora: boolean
  readonly useDora: boolean
  readonly targetModules: readonly string[]        // names of linears; ["all-linear"] = the seven
  readonly layersToTransform: readonly number[]    // empty = all
  readonly trainableTokenIndices: readonly number[]
  /** Adds the ids of <start_of_turn> and <end_of_turn>, whatever they are in the model's vocabulary. */
  readonly trainTurnTokens: boolean
  readonly modulesToSave: readonly string[]
  /** Adapter directory to start from; absent = fresh. */
  readonly initFrom?: string
  // the data
  readonly maxLength: number                       // tokens
  readonly packing: 'bfd' | 'none'
  readonly truncation: 'drop' | 'truncate' | 'error'
  readonly lossOn: LossOn
  readonly validationSplit: number                 // share of the samples, 0 = none
  readonly shuffle: boolean                        // another permutation of the rows each epoch
  /** refuse: any bad row fails the run before it starts; skip: it goes on without them. Both report them. */
  readonly badRows: 'refuse' | 'skip'
  // the run
  readonly numTrainEpochs: number
  readonly maxSteps: number                        // optimiser steps; 0 = by epochs
  readonly perDeviceTrainBatchSize: number         // rows of a micro-batch
  readonly gradientAccumulationSteps: number
  readonly lossNormalization: 'token-mean' | 'mean-of-means'
  readonly learningRate: number
  readonly lrSchedulerType: SchedulerType
  readonly warmupRatio: number
  readonly warmupSteps: number                     // wins over warmupRatio
  readonly minLrRatio: number
  readonly optim: 'adamw' | 'adamw_8bit'
  readonly weightDecay: number
  readonly adamBeta1: number
  readonly adamBeta2: number
  readonly adamEpsilon: number
  readonly maxGradNorm: number
  readonly seed: number
  readonly gradientCheckpointing: 'auto' | 'none' | 'mlp' | 'layer'
  /** Reproduces the guide's stack: contamination in packed rows, boundary labels trained, no warm-up for `constant`, its divisor. */
  readonly compat: 'none' | 'trl-0.21-eager'
  // what is kept and watched
  readonly loggingSteps: number
  readonly evalSteps: number                       // 0 = at the end of each epoch
  readonly earlyStoppingPatience: number           // evaluations without gain; 0 = off
  readonly loadBestModelAtEnd: boolean
  readonly saveSteps: number                       // 0 = at the end of each epoch
  readonly saveTotalLimit: number                  // newest checkpoints kept beside the best; 0 = all
  /** Share of the device's time while requests run, (0, 1]. */
  readonly trainShare: number
}

export interface TrainRequest {
  readonly id: string
  readonly config: TrainConfig
  /** Files or directories of .jsonl, .csv, .parquet. */
  readonly trainFiles: readonly string[]
  readonly validationFiles?: readonly string[]
  /** Checkpoints, logs and the final adapter go here; made when absent. */
  readonly outputDir: string
}

/** What was found in the data before the first step. */
export interface DataReport {
  readonly samples: number
  readonly validationSamples: number
  readonly tokens: number             // of all samples, those of validation too
  readonly targetTokens: number
  readonly rows: number               // packed or padded rows of an epoch
  readonly paddingShare: number
  readonly truncated: number          // cut to maxLength
  readonly dropped: number            // over maxLength, or without a target
  /** The first 1,000. */
  readonly refused: readonly RefusedRow[]
  readonly nRefused: number
}

export interface RefusedRow {
  readonly file: string
  readonly line: number               // from 1; 0 = the file as a whole
  /** Stable name of the fault: "invalid_json", "bad_alternation", ... (data-error.ts). */
  readonly kind: string
  readonly reason: string
}

export interface LossMetrics {
  readonly loss: number               // nats per target
  readonly tokenAccuracy: number
  readonly targets: number
}

export type TrainEvent =
  /** Now and then while the data is read. */
  | { readonly type: 'preparing'; readonly rows: number }
  | {
      readonly type: 'data'
      readonly report: DataReport
      readonly totalSteps: number
      readonly nTrained: number       // parameters
      readonly resumedFrom: number    // step of the checkpoint, 0 = from the start
    }
  | ({
      readonly type: 'step'
      readonly step: number           // from 1
      readonly totalSteps: number
      readonly epoch: number
      readonly learningRate: number
      readonly gradNorm: number
      readonly tokens: number         // seen since the start of the run
      readonly tokensPerSecond: number
      readonly remainingMs: number
      readonly memoryBytes: number
    } & LossMetrics)
  | ({ readonly type: 'evaluation'; readonly step: number; readonly best: boolean } & LossMetrics)
  | { readonly type: 'checkpoint'; readonly step: number; readonly path: string }
  /** The signal was aborted: the directory can be resumed. */
  | { readonly type: 'stopped'; readonly step: number }
  | {
      readonly type: 'finished'
      readonly step: number
      readonly adapterPath: string
      readonly tokens: number
      readonly seconds: number        // of training, over all its resumptions
      /** Of the evaluation of what was kept, else of the last steps. */
      readonly final: LossMetrics
    }

/** What an engine that trains offers beside `Engine`. */
export interface TrainingEngine {
  /**
   * Trains an adapter on the resident base between the steps of requests. `request.outputDir` holds the run: a directory with a checkpoint
   * is resumed from it, bit for bit on the CPU. One run at a time. Aborting the signal checkpoints, ends the iterator with a 'stopped'
   * event within two optimiser steps, and leaves the directory resumable (pause) or to be removed by the caller (cancel).
   * @throws EngineError TRAINING_BUSY, DATA_INVALID, INVALID_REQUEST, OUT_OF_MEMORY, TRAINING_DIVERGED, DISK_FULL, ENGINE_RESTARTED
   */
  train(request: TrainRequest, signal?: AbortSignal): AsyncIterable<TrainEvent>
}
