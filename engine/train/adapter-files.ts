// The folder that a run ends in: a PEFT adapter, a model card and the tokenizer, whole or absent.

import { constants } from 'node:fs'
import { copyFile, mkdir, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { flushPath, renameFlushed, toDiskError, writeFlushed } from '../durable.js'
import { type PeftConfig, formatPeftConfig } from '../peft-config.js'
import { ADAPTER } from './checkpoint.js'
import { LINEARS } from './config.js'
import type { LossMetrics, TrainConfig } from './types.js'

export interface AdapterCard {
  readonly baseName: string
  readonly config: TrainConfig
  readonly step: number
  readonly samples: number
  readonly tokens: number
  readonly final: LossMetrics
}

export function adapterConfig(config: TrainConfig, baseName: string, trainedTokenIds: readonly number[]): string {
  const orNull = <T>(items: readonly T[]): readonly T[] | null => (items.length === 0 ? null : items)
  const peft: PeftConfig = {
    r: config.r, lora_alpha: config.loraAlpha, lora_dropout: config.loraDropout, use_rslora: config.useRslora, use_dora: config.useDora,
    target_modules: targetModules(config), layers_to_transform: orNull(config.layersToTransform),
    trainable_token_indices: orNull(trainedTokenIds), modules_to_save: orNull(config.modulesToSave), base_model_name_or_path: baseName,
  }
  return formatPeftConfig(peft)
}

/** "all-linear" is the seven of a text layer. */
export function targetModules({ targetModules: names }: TrainConfig): readonly string[] {
  return names.includes('all-linear') ? LINEARS : names
}

/** @throws EngineError DISK_FULL, with nothing left at `path` */
export async function writeAdapterFolder(path: string, parts: {
  readonly config: string
  readonly card: AdapterCard
  readonly tokenizerFiles: readonly string[]
  /** Writes adapter_model.safetensors there, flushed. */
  saveWeights(path: string): Promise<void>
}): Promise<void> {
  const partial = `${path}.partial`
  try {
    await rm(partial, { recursive: true, force: true })
    await mkdir(partial)
    await parts.saveWeights(join(partial, ADAPTER))
    await writeFlushed(join(partial, 'adapter_config.json'), parts.config)
    await writeFlushed(join(partial, 'README.md'), modelCard(parts.card))
    for (const file of parts.tokenizerFiles) await copyFlushed(file, join(partial, basename(file)))
    await flushPath(partial)
    await rm(path, { recursive: true, force: true })
    await renameFlushed(partial, path)
  } catch (error) {
    await rm(partial, { recursive: true, force: true }).catch(() => {})
    throw toDiskError(error)
  }
}

/** A clone where the file system can, else a copy. */
export async function copyFlushed(from: string, to: string): Promise<void> {
  await copyFile(from, to, constants.COPYFILE_FICLONE)
  await flushPath(to)
}

function modelCard({ baseName, config, step, samples, tokens, final }: AdapterCard): string {
  const rows: [string, string | number][] = [
    ['rank, alpha, dropout', `${config.r}, ${config.loraAlpha}, ${config.loraDropout}`], ['modules', targetModules(config).join(', ')],
    ['optimiser steps', step], ['samples', samples], ['tokens seen', tokens],
    ['learning rate', `${config.learningRate} (${config.lrSchedulerType})`],
    ['rows per step', `${config.perDeviceTrainBatchSize} x ${config.gradientAccumulationSteps}, ${config.maxLength} tokens at most`],
    ['loss on', config.lossOn], ['seed', config.seed], ['final loss (nats per target)', final.loss.toFixed(4)],
    ['final token accuracy', final.tokenAccuracy.toFixed(4)],
  ]
  return [
    '---', `base_model: ${JSON.stringify(baseName)}`, 'library_name: peft', 'pipeline_tag: text-generation', 'tags:', '- lora',
    '- lorikeet', '---', '', `# LoRA adapter for ${baseName}`, '',
    'Trained by QLoRA over the base in NF4. It can be served by name beside its base.', '',
    '| | |', '| --- | --- |', ...rows.map(([name, value]) => `| ${name} | ${value} |`), '',
  ].join('\n')
}
