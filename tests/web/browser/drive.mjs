// Opens the page in Chromium and does what comes on standard input, a JSON array of {name, function, argument};
// answers with one of {name, result | error} and what the console said.
import fs from "node:fs";
import { chromium } from "playwright-core";
import { launch } from "./browser.mjs";
import { serve } from "./serve.mjs";

const LIMIT = 15_000; // milliseconds; cornerstone says nothing when a worker of its own has died
const withLimit = (promise) =>
  Promise.race([promise, new Promise((_, reject) => setTimeout(reject, LIMIT, new Error("no answer")))]);

const work = JSON.parse(fs.readFileSync(0, "utf8"));
const server = await serve("dist");
const browser = await launch(chromium);
const page = await browser.newPage();
const complaints = [];
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("requestfailed", (request) => complaints.push(`${request.url()}: ${request.failure()?.errorText}`));
const open = async () => {
  await page.goto(server.url);
  await page.waitForFunction(() => window.isReady);
};
await open();
const answers = [];
for (const { name, function: called, argument } of work) {
  try {
    const doing = page.evaluate(([called, argument]) => window[called](argument), [called, argument]);
    answers.push({ name, result: await withLimit(doing) });
  } catch (error) {
    answers.push({ name, error: String(error?.message ?? error) });
    await open(); // with new workers
  }
}
await browser.close();
server.close();
process.stdout.write(JSON.stringify({ answers, complaints }), () => process.exit());
