"use strict";
const at = id => document.getElementById(id);
const about = JSON.parse(at("about").textContent);
const shown = name => name.replaceAll("_", " ");
const figure = value => value === null ? "–" : value.toFixed(3);
let film = null, asked = 0;

function say(text, wrong) {
  at("state").textContent = text;
  at("state").className = wrong ? "wrong" : "";
}

function cell(row, kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  row.append(made);
  return made;
}

function show(answer) {
  const called = answer.findings.filter(finding => finding.called).map(finding => shown(finding.finding));
  at("verdict").className = answer.status;
  at("verdict").textContent = answer.status + (answer.reasons.length ? ": " + answer.reasons.join("; ") : "");
  at("caption").textContent = answer.status === "refused" ? "Refused: no findings are given."
    : called.length ? "Called: " + called.join(", ")
    : answer.findings.some(finding => finding.called !== null) ? "No finding is called."
    : "No threshold is known, so no finding is called.";
  at("findings").replaceChildren(...answer.findings.map(finding => {
    const row = document.createElement("tr");
    const head = cell(row, "th", shown(finding.finding));
    head.scope = "row";
    if (about[finding.finding]) head.title = about[finding.finding];
    cell(row, "td", figure(finding.probability));
    cell(row, "td", figure(finding.threshold));
    cell(row, "td", finding.called === null ? "–" : finding.called ? "yes" : "no");
    if (finding.called) row.className = "called";
    return row;
  }));
  const notes = Object.fromEntries(answer.findings.map(finding => [finding.finding, finding.map_note]));
  at("overlays").replaceChildren(...answer.overlays.map(overlay => {
    const note = notes[overlay.finding];
    const figure = document.createElement("figure"), image = document.createElement("img");
    image.src = "data:image/png;base64," + overlay.png;
    image.alt = "The film under the map of " + shown(overlay.finding) + ", with its regions outlined";
    figure.append(image);
    cell(figure, "figcaption", shown(overlay.finding) + (note ? ": " + note : ""));
    return figure;
  }));
  at("model").textContent = "chexjax " + answer.model.version + ", step " + answer.model.step + ", checkpoint " +
    answer.model.checkpoint + (answer.model.calibrated ? ", calibrated" : ", not calibrated");
  at("result").hidden = false;
  say(film.name + ", " + answer.width + " x " + answer.height + " pixels", false);
}

async function send() {
  if (!film) return;
  const number = ++asked, token = at("token").value;
  at("result").hidden = true;
  say(film.name + ": on its way …", false);
  try {
    const headers = token ? {Authorization: "Bearer " + token} : {};
    const response = await fetch("predict?maps=1", {method: "POST", body: film, headers});
    const answer = await response.json();
    if (number !== asked) return;  // another film was chosen meanwhile
    at("asked").hidden = response.status !== 401 && !token;
    if (response.ok) show(answer);
    else if (response.status === 401) { say("This service asks for its access token.", true); at("token").focus(); }
    else say(film.name + ": " + (typeof answer.detail === "string" ? answer.detail : "status " + response.status), true);
  } catch (error) {
    if (number === asked) say("The service does not answer.", true);
  }
}

function take(files) {
  if (!files.length) return;
  if (files.length > 1) { say("One film at a time, please.", true); return; }
  film = files[0];
  send();
}

at("film").addEventListener("change", event => take(event.target.files));
at("form").addEventListener("submit", event => { event.preventDefault(); send(); });
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();  // else the browser would leave the page for the film
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
