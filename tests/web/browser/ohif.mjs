// OHIF as a radiologist uses it: the list and its filters, a study opened and scrolled, its other objects shown.
// Takes {root, pages, study, filters, shows, pictures} as JSON; answers with what was seen.
import fs from "node:fs";
import { chromium } from "playwright-core";
import { launch } from "./browser.mjs";
import { serve } from "./serve.mjs";

const { root, pages, study, filters, shows, pictures } = JSON.parse(fs.readFileSync(0, "utf8"));
const ROWS = 'tr[data-cy^="studyRow-"]';
const THUMBNAILS = '[data-cy^="study-browser-thumbnail"]';

const config = {
  routerBasename: "/",
  extensions: [],
  modes: [],
  showStudyList: true,
  investigationalUseDialog: { option: "never" },
  defaultDataSourceName: "pacsnode",
  dataSources: [
    {
      namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
      sourceName: "pacsnode",
      configuration: {
        friendlyName: "pacsnode",
        name: "pacsnode",
        qidoRoot: root,
        wadoRoot: root,
        wadoUriRoot: root.replace("/dicomweb", "/wado"),
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        imageRendering: "wadors",
        thumbnailRendering: "wadors",
        enableStudyLazyLoad: true,
        dicomUploadEnabled: true,
        singlepart: "bulkdata,video,pdf",
        bulkDataURI: { enabled: true },
      },
    },
  ],
};

const server = await serve(pages, { "/app-config.js": `window.config = ${JSON.stringify(config)};` });
const browser = await launch(chromium, { drawing: true });
const page = await browser.newPage({ viewport: { width: 1500, height: 950 } });
page.setDefaultTimeout(20_000);
const seen = { rows: {}, thumbnails: [], frames: 0, shown: {}, requests: [], errors: [] };
page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text().slice(0, 300)));
page.on("pageerror", (error) => seen.errors.push(String(error).slice(0, 300)));
page.on("response", (response) => {
  if (response.url().startsWith(root)) {
    seen.requests.push([response.status(), response.request().method(), response.url().slice(root.length)]);
  }
});
const answered = (part) => page.waitForResponse((response) => response.url().includes(part));
const picture = (name) => page.screenshot({ path: `${pictures}/${name}.png` });

// The list, and what is left of it by each filter
await page.goto(server.url);
await page.waitForSelector(ROWS);
seen.rows[""] = await page.locator(ROWS).count();
await picture("list");
for (const [field, text, part] of filters) {
  await page.goto(server.url);
  await page.waitForSelector(ROWS);
  const filtered = answered(part);
  await page.fill(`[data-cy="input-${field}"]`, text);
  await filtered;
  await page.waitForFunction(([rows, all]) => document.querySelectorAll(rows).length < all, [ROWS, seen.rows[""]]);
  seen.rows[`${field}=${text}`] = await page.locator(ROWS).allInnerTexts();
}
for (const query of ["modalities=MR", "startDate=20240501&endDate=20240601"]) {
  await page.goto(`${server.url}/?${query}`);
  await page.waitForSelector(ROWS);
  seen.rows[query] = await page.locator(ROWS).allInnerTexts();
}

// A study: thumbnails, the first picture, scrolling through all of them
const framesSeen = () => seen.requests.filter(([status, , path]) => status === 200 && path.includes("/frames/")).length;
await page.goto(`${server.url}/viewer?StudyInstanceUIDs=${study}`);
await page.waitForSelector(`${THUMBNAILS} img`);
await page.getByText("Skip all").click({ timeout: 3000 }).catch(() => {});
const pane = await page.locator('[data-cy="viewport-pane"]').first().boundingBox();
await page.mouse.move(pane.x + pane.width / 2, pane.y + pane.height / 2);
for (let step = 0; step < 5; step += 1) {
  await page.mouse.wheel(0, 100);
  await page.waitForTimeout(100);
}
await page.waitForLoadState("networkidle");
seen.frames = framesSeen();
seen.thumbnails = await page.locator(THUMBNAILS).evaluateAll((all) =>
  all.map((one) => [one.innerText.split(/\s+/).join(" "), one.querySelector("img")?.naturalWidth ?? 0]),
);
await picture("scrolled");

// Segmentations, contours, documents
for (const [name, part] of shows) {
  const shown = part ? answered(part) : null; // contours are in the metadata, which it has
  await page.locator(THUMBNAILS).filter({ hasText: name }).first().dblclick();
  seen.shown[name] = (await shown)?.status() ?? null;
  await page.waitForTimeout(3000); // nothing tells when it is drawn
  await picture(name);
}
await browser.close();
server.close();
process.stdout.write(JSON.stringify(seen), () => process.exit());
