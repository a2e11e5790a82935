import { homedir } from 'node:os'
import t from 'tap'
import { flagName, loadConfig, settingNames, UsageError, variableName, describeSettings } from '../../server/config.js'

t.test('without flags and variables every setting has its default', async (t) => {
  const config = loadConfig([], {})
  t.match(config, {
    host: '127.0.0.1', port: 8000, dataDir: `${homedir()}/.lorikeet`, maxBodyBytes: 2 ** 20, requestTimeout: 300_000, drainTimeout: 30_000,
  })
  t.match(config.engine, {
    model: '', device: 'auto', compute: 'auto', weights: 'nf4', head: 'auto', maxNumSeqs: 128, maxQueue: 512, prefixCache: true,
    gpuMemoryUtilization: 0.9, nvtx: false,
  })
})

t.test('every setting is a flag and a variable, and the flag wins', async (t) => {
  t.equal(loadConfig([], { LORIKEET_MAX_MODEL_LEN: '2048' }).maxModelLen, 2_048)
  t.equal(loadConfig(['--max-model-len', '1024'], { LORIKEET_MAX_MODEL_LEN: '2048' }).maxModelLen, 1_024)
  t.equal(loadConfig([], { LORIKEET_PREFIX_CACHE: 'false' }).prefixCache, false)
  t.equal(loadConfig([], { LORIKEET_GPU_MEMORY_UTILIZATION: '.45', LORIKEET_NVTX: '1' }).engine.gpuMemoryUtilization, 0.45)
  t.equal(loadConfig(['--no-prefix-cache'], {}).engine.prefixCache, false)
  t.equal(loadConfig([], { LORIKEET_PORT: '' }).port, 8_000, 'an empty variable is as if absent')
})

t.test('units are read: bytes, times, lists, NAME=PATH', async (t) => {
  const config = loadConfig([
    '--kv-cache-bytes', '1.5GiB', '--drain-timeout', '500ms', '--request-timeout', '2m', '--slow-reader-timeout', '3',
    '--adapter', 'sql=/a/b=c', '--adapter', 'x=y', '--served-model-name', 'one', '--served-model-name', 'two', '--device', 'cuda:1',
  ], { LORIKEET_ADAPTER_ROOT: '/a, /b' })
  t.equal(config.kvCacheBytes, 1.5 * 2 ** 30)
  t.same([config.drainTimeout, config.requestTimeout, config.slowReaderTimeout], [500, 120_000, 3_000])
  t.same(config.adapter, [{ name: 'sql', path: '/a/b=c' }, { name: 'x', path: 'y' }])
  t.same(config.adapterRoot, ['/a', '/b'])
  t.same(config.modelNames, ['one', 'two'])
  t.equal(config.device, 'cuda:1')
})

t.test('the base is named after its file unless a name is given', async (t) => {
  t.same(loadConfig(['--model', '/m/gemma-3-270m-q4_k_m.gguf'], {}).modelNames, ['gemma-3-270m-q4_k_m'])
  t.same(loadConfig(['--model', '/m/gemma-3-1b-it/'], {}).modelNames, ['gemma-3-1b-it'])
  t.same(loadConfig(['--model', 'google/gemma-3-1b-it'], {}).modelNames, ['gemma-3-1b-it'])
})

t.test('a malformed value stops the start with its name', async (t) => {
  const flags: ReadonlyArray<[args: string[], message: RegExp]> = [
    [['--port', 'x'], /^--port expects a whole number/],
    [['--port', '65536'], /^--port/],
    [['--port', '-1'], /port/],
    [['--port', '1e3'], /^--port/],
    [['--weights', 'q4'], /^--weights expects one of nf4, bf16, f32, not "q4"/],
    [['--device', 'tpu'], /^--device/],
    [['--kv-cache-bytes', '5XB'], /^--kv-cache-bytes/],
    [['--gpu-memory-utilization', '1.5'], /^--gpu-memory-utilization expects a number above 0, at most 1, not "1.5"/],
    [['--gpu-memory-utilization', '0'], /^--gpu-memory-utilization/],
    [['--request-timeout', 'soon'], /^--request-timeout/],
    [['--adapter', 'nopath'], /^--adapter expects NAME=PATH/],
    [['--adapter', '=x'], /^--adapter/],
    [['--cors-origin', 'example.com'], /^--cors-origin/],
    [['--max-num-seqs', '0'], /^--max-num-seqs/],
    [['--bogus'], /bogus/],
    [['positional'], /positional/i],
    [['--port'], /port/],
  ]
  for (const [args, message] of flags) t.throws(() => loadConfig(args, {}), { message }, args.join(' '))
  t.throws(() => loadConfig([], { LORIKEET_MAX_LORAS: 'many' }), { message: /^LORIKEET_MAX_LORAS expects/ })
  t.throws(() => loadConfig([], { LORIKEET_PREFIX_CACHE: 'maybe' }), { message: /^LORIKEET_PREFIX_CACHE/ })
  t.throws(() => loadConfig(['--port', 'x'], {}), UsageError)
})

t.test('without a key file only loopback is listened on', async (t) => {
  for (const host of ['0.0.0.0', '::', '192.168.1.5', 'gpu-box']) t.throws(() => loadConfig(['--host', host], {}), /--api-keys/, host)
  for (const host of ['127.0.0.1', 'localhost', '::1', '127.0.1.1']) t.equal(loadConfig(['--host', host], {}).host, host)
  t.equal(loadConfig(['--host', '0.0.0.0', '--api-keys', 'k.json'], {}).host, '0.0.0.0')
})

t.test('--help names every flag; names have one spelling', async (t) => {
  const help = describeSettings()
  for (const name of settingNames()) t.match(help, flagName(name))
  t.equal(variableName('maxLoraRank'), 'LORIKEET_MAX_LORA_RANK')
})
