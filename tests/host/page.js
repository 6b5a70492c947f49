// Opens each template of the pack from the template browser of a running ComfyUI, runs the first to its end, and opens
// each blueprint.
// node page.js URL CHROMIUM OUT TEMPLATE…   writes OUT/<template>.json (the prompt that the page would post), report.json
// HYPERNOISE_SCREENSHOTS=… also writes OUT/<template>.png and run.png, and waits until there is something to see
const { chromium } = require('playwright-core');
const fs = require('fs');

const PACK = 'ComfyUI-HyperNoise';
const PATIENCE = 300000; // ms; seconds are enough where the machine is not busy
const [url, executablePath, out, ...templates] = process.argv.slice(2);

async function shoot(page, name) {
  if (!process.env.HYPERNOISE_SCREENSHOTS) return;
  await page.waitForTimeout(2500);
  await page.screenshot({ path: `${out}/${name}.png` });
}

async function open(page, template) {
  await page.evaluate(() => window.app.graph.clear());
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates'));
  await page.getByText(PACK, { exact: true }).first().click();
  await page.locator(`[data-testid="template-workflow-${template}"]`).first().click();
  await page.waitForFunction(
    () => window.app.graph.nodes.some((node) => node.type.startsWith('HyperNoise')),
    null,
    { timeout: PATIENCE },
  );
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView'));
}

// What `describe` says once it says the same three times in a row: nodes and their values come one after the other.
async function settled(page) {
  let now = null, same = 0;
  while (same < 2) {
    await page.waitForTimeout(200);
    const next = await describe(page);
    same = JSON.stringify(next) === JSON.stringify(now) ? same + 1 : 0;
    now = next;
  }
  return now;
}

async function describe(page) {
  return await page.evaluate(async () => ({
    prompt: (await window.app.graphToPrompt()).output,
    missing: window.app.graph.nodes.filter((n) => !window.LiteGraph.registered_node_types[n.type]).map((n) => n.type),
    types: window.app.graph.nodes.map((n) => n.type),
  }));
}

async function run(page) {
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  await page.waitForFunction(
    () => window.app.graph.nodes.some((n) => n.type === 'ImageCompare' && window.app.nodeOutputs[n.id]?.a_images?.length),
    null,
    { timeout: PATIENCE },
  );
  await shoot(page, 'run');
  return await page.evaluate(() => {
    const node = window.app.graph.nodes.find((n) => n.type === 'ImageCompare');
    return window.app.nodeOutputs[node.id];
  });
}

// Whether words of the last run are visible on a node, at 100 %, in the new (Vue) page and on the classic canvas.
async function seen(page, type, words) {
  const found = {};
  for (const vue of [true, false]) {
    await page.evaluate(async ([vue, type]) => {
      await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue);
      const node = window.app.graph.nodes.find((n) => n.type === type);
      window.app.canvas.ds.scale = 1;
      window.app.canvas.centerOnNode(node);
    }, [vue, type]);
    await page.getByText(words).locator('visible=true').first().waitFor();
    const name = vue ? 'vue' : 'classic';
    found[name] = await page.getByText(words).locator('visible=true').first().innerText();
    await shoot(page, `words-${name}`);
  }
  await page.evaluate(() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true));
  return found;
}

// Words on a node of a graph that was opened anew and whose results are all cached.
async function seenAgain(page, template, words) {
  await open(page, template);
  await settled(page);
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  await page.getByText(words).locator('visible=true').first().waitFor();
  return await page.getByText(words).locator('visible=true').allInnerTexts();
}

(async () => {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
  const page = await browser.newPage({ viewport: { width: 1800, height: 1000 } });
  page.setDefaultTimeout(PATIENCE);
  const report = { errors: [], missing: {}, compared: null, words: {}, again: [], blueprints: {} };
  page.on('pageerror', (error) => report.errors.push(String(error.stack || error)));
  page.on('console', (message) => {
    if (message.type() === 'error') report.errors.push(`${message.text()} ${message.location().url || ''}`);
  });
  await page.goto(url);
  await page.waitForFunction(() => window.app?.extensionManager && window.app?.graph, null, { timeout: PATIENCE });
  await page.evaluate(() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)); // for the slider
  for (const template of templates) {
    await open(page, template);
    const { prompt, missing, types } = await settled(page);
    report.missing[template] = missing;
    if (!types.length) report.errors.push(`${template} is empty`);
    fs.writeFileSync(`${out}/${template}.json`, JSON.stringify(prompt, null, 2));
    if (template === templates[0]) {
      report.compared = await run(page);
      report.words = await seen(page, 'HyperNoiseCompare', /difference [+-]/);
      report.again = await seenAgain(page, template, /difference [+-]/);
    }
    await shoot(page, template);
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
  fs.writeFileSync(`${out}/report.json`, JSON.stringify(report, null, 2));
  await browser.close();
})();
