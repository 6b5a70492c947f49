// Opens each template of the pack in a running ComfyUI, runs some to their end in both renderers, and opens each blueprint.
// node page.js URL CHROMIUM OUT RUNS TEMPLATE…   runs the first RUNS templates; the first is opened from the template browser
// writes OUT/<template>.json (the prompt that the page would post) and OUT/report.json
// HYPERNOISE_SCREENSHOTS=… also writes OUT/<template>-<renderer>.png, before and after the run
const { chromium } = require('playwright-core');
const fs = require('fs');

const PACK = 'ComfyUI-HyperNoise';
const PATIENCE = 300000; // ms; seconds are enough where the machine is not busy
const [url, executablePath, out, runs, ...templates] = process.argv.slice(2);

async function shoot(page, name) {
  if (!process.env.HYPERNOISE_SCREENSHOTS) return;
  await page.waitForTimeout(2500);
  await page.screenshot({ path: `${out}/${name}.png` });
}

async function renderer(page, name) {
  await page.evaluate((vue) => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue), name === 'vue');
}

async function browse(page, template) {
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates'));
  await page.getByText(PACK, { exact: true }).first().click();
  await page.locator(`[data-testid="template-workflow-${template}"]`).first().click();
  await page.waitForFunction(() => window.app.graph.nodes.some((node) => node.type.startsWith('HyperNoise')));
}

async function open(page, template) {
  await page.evaluate(async (path) => {
    const workflow = await (await fetch(path)).json();
    await window.app.loadGraphData(workflow, true, true, null, { openSource: 'template' });
  }, `/api/workflow_templates/${PACK}/${encodeURIComponent(template)}.json`);
}

// What `describe` says once it says the same twice in a row: nodes and their values come one after the other.
async function settled(page) {
  let now = null, next = await describe(page);
  while (JSON.stringify(next) !== JSON.stringify(now)) {
    await page.waitForTimeout(100);
    now = next;
    next = await describe(page);
  }
  return now;
}

async function describe(page) {
  return await page.evaluate(async () => {
    const { nodes } = window.app.graph;
    const box = (node) => [...node.boundingRect];
    const meet = ([x, y, w, h], [X, Y, W, H]) => x < X + W && X < x + w && y < Y + H && Y < y + h;
    return {
      prompt: (await window.app.graphToPrompt()).output,
      missing: nodes.filter((n) => !window.LiteGraph.registered_node_types[n.type]).map((n) => n.type),
      count: nodes.length,
      zoom: window.app.canvas.ds.scale,
      overlaps: nodes.flatMap((a, i) => nodes.slice(i + 1).filter((b) => meet(box(a), box(b))).map((b) => [a.title, b.title])),
    };
  });
}

// Afresh unless results of earlier runs may serve. Two training steps have all that is looked at here.
async function run(page, afresh = true) {
  await page.evaluate(async (afresh) => {
    const short = { steps: 2, critic_warm_up: 16 };
    for (const { widgets } of window.app.graph.nodes.filter((n) => n.type === 'HyperNoiseTrain'))
      for (const widget of widgets) widget.value = short[widget.name] ?? widget.value;
    const free = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"free_memory": true}' };
    if (afresh) await window.app.api.fetchApi('/free', free);
    window.ended = null;
    for (const end of ['execution_success', 'execution_error', 'execution_interrupted'])
      window.app.api.addEventListener(end, ({ detail }) => (window.ended = { end, detail }), { once: true });
    await window.app.queuePrompt(0, 1);
  }, afresh);
  await page.waitForFunction(() => window.ended || Object.keys(window.app.lastNodeErrors ?? {}).length);
  return await page.evaluate(() => window.ended?.end ?? JSON.stringify(window.app.lastNodeErrors));
}

// By node, the words of the last run that can be read on it at 100 %.
async function words(page) {
  const told = await page.evaluate(() =>
    window.app.graph.nodes
      .map((n) => [n.id, n.title, n.widgets?.find((w) => w.name === '$$node-text-preview')?.value])
      .filter(([, , value]) => value),
  );
  const found = {};
  for (const [id, title, value] of told) {
    await page.evaluate((id) => {
      window.app.canvas.ds.scale = 1;
      window.app.canvas.centerOnNode(window.app.graph.getNodeById(id));
      window.app.canvas.setDirty(true, true);
    }, id);
    const drawn = await page.waitForFunction(([id, line]) => {
      const { ds } = window.app.canvas, [x, y, w, h] = window.app.graph.getNodeById(id).boundingRect;
      const left = (x + ds.offset[0]) * ds.scale, top = (y + ds.offset[1]) * ds.scale;
      const on = (r) => r.width && r.left >= left && r.right <= left + w * ds.scale + 1 && r.top >= top && r.top <= top + h * ds.scale;
      const holds = [...document.querySelectorAll('body *')].filter((e) => e.textContent.includes(line) && e.checkVisibility());
      const inner = holds.filter((e) => !holds.some((other) => other !== e && e.contains(other)));
      return inner.find((e) => on(e.getBoundingClientRect()))?.innerText;
    }, [id, value.split('\n')[0].trim()]);
    found[title] = await drawn.jsonValue();
  }
  return found;
}

async function slider(page) {
  return await page.evaluate(() => {
    const node = window.app.graph.nodes.find((n) => n.type === 'ImageCompare');
    return window.app.nodeOutputs[node.id];
  });
}

(async () => {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  page.setDefaultTimeout(PATIENCE);
  const report = { errors: [], missing: {}, zoom: {}, overlaps: {}, ends: {}, words: {}, compared: null, again: {}, blueprints: {} };
  page.on('pageerror', (error) => report.errors.push(String(error.stack || error)));
  page.on('console', (message) => {
    if (message.type() === 'error') report.errors.push(`${message.text()} ${message.location().url || ''}`);
  });
  await page.goto(url);
  await page.waitForFunction(() => window.app?.extensionManager && window.app?.graph && window.LiteGraph?.registered_node_types?.HyperNoiseTrain);
  await renderer(page, 'classic'); // draws faster
  for (const template of templates) {
    await (template === templates[0] ? browse : open)(page, template);
    const { prompt, missing, count, zoom, overlaps } = await settled(page);
    report.missing[template] = missing;
    report.zoom[template] = zoom;
    report.overlaps[template] = overlaps;
    if (!count) report.errors.push(`${template} is empty`);
    fs.writeFileSync(`${out}/${template}.json`, JSON.stringify(prompt, null, 2));
  }
  const offered = await page.evaluate(async () => await (await fetch('/global_subgraphs')).json());
  for (const [id, own] of Object.entries(offered).filter(([, own]) => own.info.node_pack.endsWith(PACK))) {
    await page.evaluate(async (id) => {
      const entry = await (await fetch(`/global_subgraphs/${id}`)).json();
      await window.app.loadGraphData(JSON.parse(entry.data));
    }, id);
    report.blueprints[own.name] = (await settled(page)).prompt;
    await shoot(page, own.name);
  }
  for (const name of ['classic', 'vue']) {
    await renderer(page, name);
    for (const template of process.env.HYPERNOISE_SCREENSHOTS ? templates : templates.slice(0, runs)) {
      await open(page, template);
      await settled(page);
      await shoot(page, `${template}-${name}`);
      if (templates.indexOf(template) >= runs) continue;
      (report.ends[name] ??= {})[template] = await run(page);
      await shoot(page, `${template}-${name}-run`);
      (report.words[name] ??= {})[template] = await words(page);
      if (template !== templates[0] || name !== 'vue') continue;
      report.compared = await slider(page);
      await open(page, template);
      await run(page, false);
      report.again = await words(page);
    }
  }
  fs.writeFileSync(`${out}/report.json`, JSON.stringify(report, null, 2));
  await browser.close();
})();
