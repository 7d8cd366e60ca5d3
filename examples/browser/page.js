// The page: opens a bundle, asks for the texts of its task, and shows the answer as a table.

import { openPipeline } from "./pipeline.js";
import { STRATEGIES } from "./tasks.js";

const element = (id) => document.getElementById(id);
const EXAMPLES = {
  "token-classification": { text: "The old man walked to the boat, and his crew watched the stars." },
  "text-classification": { text: "Free money!!! Click here to win 1,000,000 dollars." },
  "fill-mask": { text: "The <mask> was closed for the day." },
  "question-answering": {
    question: "Who praised the officers?",
    context: "The jury praised the officers of the city for the manner in which the election was held.",
  },
};

let pipeline = null;

element("aggregation_strategy").append(...STRATEGIES.map((name) => new Option(name)));
element("aggregation_strategy").value = "simple";
element("opening").addEventListener("submit", whileDisabled("Opening the bundle …", open));
element("asking").addEventListener("submit", whileDisabled("Running …", ask));

const asked = new URLSearchParams(location.search).get("bundle");
if (asked) {
  element("address").value = asked;
  element("opening").requestSubmit();
}

async function open() {
  element("asking").hidden = true;
  element("answer").hidden = true;
  pipeline = await openPipeline(element("address").value);
  const { task, recipe, source, usable_length: length } = pipeline.manifest;
  element("fields").replaceChildren(...pipeline.task.fields.flatMap((name) => fieldOf(name, EXAMPLES[task][name])));
  element("strategy").hidden = task !== "token-classification";
  element("asking").hidden = false;
  element(pipeline.task.fields[0]).focus();
  return `${source.name}: ${task}, ${recipe}, up to ${length} tokens.`;
}

async function ask() {
  const item = Object.fromEntries(pipeline.task.fields.map((name) => [name, element(name).value]));
  const begin = performance.now();
  const answer = await pipeline.answer(item, { aggregation_strategy: element("aggregation_strategy").value });
  const milliseconds = Math.round(performance.now() - begin);
  // A text with several masks has a list for each.
  const lists = Array.isArray(answer[0]) ? answer : [answer];
  element("tables").replaceChildren(...lists.map((rows, index) => tableOf(rows, captionOf(index, lists.length))));
  element("answer").hidden = false;
  return `Done in ${milliseconds} ms.`;
}

// Returns a listener for a form: it runs `work`, and shows the sentence that this returns, or the error.
function whileDisabled(waiting, work) {
  return async (event) => {
    event.preventDefault();
    const buttons = document.querySelectorAll("button");
    buttons.forEach((button) => (button.disabled = true));
    say(waiting);
    try {
      say(await work());
    } catch (error) {
      say(error.message, { isWrong: true });
    } finally {
      buttons.forEach((button) => (button.disabled = false));
    }
  };
}

function say(sentence, { isWrong = false } = {}) {
  element("status").textContent = sentence;
  element("status").classList.toggle("wrong", isWrong);
}

function fieldOf(name, example) {
  const label = document.createElement("label");
  label.htmlFor = name;
  label.textContent = name[0].toUpperCase() + name.slice(1);
  const area = document.createElement("textarea");
  Object.assign(area, { id: name, rows: 3, required: true, value: example });
  return [label, area];
}

function captionOf(index, count) {
  return count === 1 ? "Places in the text count UTF-16 units, as JavaScript does." : `Mask ${index + 1} of ${count}`;
}

function tableOf(rows, caption) {
  const table = document.createElement("table");
  table.createCaption().textContent = rows.length ? caption : "There is none.";
  const names = Object.keys(rows[0] ?? {});
  const head = table.createTHead().insertRow();
  for (const name of names) head.append(cell("th", name, rows[0][name], { scope: "col" }));
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const name of names) line.append(cell("td", shown(row[name]), row[name]));
  }
  return table;
}

function cell(tag, text, value, properties = {}) {
  const made = Object.assign(document.createElement(tag), { textContent: text, ...properties });
  if (typeof value === "number") made.className = "number";
  return made;
}

function shown(value) {
  return Number.isInteger(value) || typeof value === "string" ? value : value.toFixed(4);
}
