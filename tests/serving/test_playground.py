"""The playground in a real browser, against a server whose answers are scripted; see CONTRIBUTING."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

pytest.importorskip('uvicorn', reason="starlette and uvicorn are not installed: pip install '.[browser]'")

from scripted_server import BASE, PAGE, Running, application

FLAGS = ('--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync')
HOSTILE = '<img src=x onerror="document.title=1">'
browsers = pytest.mark.browser


@pytest.fixture(scope='module')
def chromium():
  playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed, see CONTRIBUTING')
  path = shutil.which('chromium')
  if path is None:
    pytest.skip('chromium is not installed, see CONTRIBUTING')
  with playwright.sync_playwright() as started:
    found = started.chromium.launch(executable_path=path, args=FLAGS)
    yield found
    found.close()


@pytest.fixture
def opened(chromium):
  """Opens the page of an application; it must then make no error, and no request to another server."""
  servers, contexts, wrong = [], [], []

  def open_page(*, size=(1300, 900), **settings):
    server = Running(application(**settings))
    servers.append(server)
    context = chromium.new_context(viewport={'width': size[0], 'height': size[1]}, permissions=['clipboard-read'])
    contexts.append(context)
    page = context.new_page()
    page.set_default_timeout(5000)
    page.on('pageerror', lambda error: wrong.append(str(error)))
    page.on('request', lambda request: request.url.startswith((server.address, 'data:')) or wrong.append(request.url))
    page.goto(server.address)
    page.server = server
    return page

  yield open_page
  for context in contexts:
    context.close()
  for server in servers:
    server.close()
  assert not wrong


def box_of(page, name):
  return page.locator(f'#list input[value="{name}"]')


def choose(page, *names):
  """Compares these prompts, in this order."""
  box_of(page, BASE).wait_for()
  while page.locator('#list input:checked').count():
    page.locator('#list input:checked').first.uncheck()
  for name in names:
    box_of(page, name).check()


def generate(page, text='It\'s a "test" — 100 %\nyes:'):
  page.get_by_label('Input', exact=True).fill(text)
  page.get_by_role('button', name='Generate').click()


def answer(page, name):
  return page.get_by_role('article', name=f'Answer of {name}')


def wait_for(page, name, figures):
  answer(page, name).locator('.figures', has_text=figures).wait_for()


def test_the_page_is_one_file_of_the_package():
  text = PAGE.read_text()
  assert re.findall(r'(?:src|href)=["\'](?!data:|#)[^"\']*', text) == [] and '@import' not in text
  assert set(re.findall(r'https?://[\w.]+', text)) == {'http://www.w3.org'}  # the name of SVG
  settings = (pathlib.Path(__file__).parents[2] / 'pyproject.toml').read_text()
  assert '"*.html"' in settings  # the wheel has it


@browsers
def test_answers_stream_side_by_side_with_their_figures(opened):
  page = opened(pause=0.01)
  choose(page, BASE, 'reviews/prompt', 'headlines')
  generate(page)
  wait_for(page, BASE, 'cut at the limit')
  wait_for(page, 'headlines', 'complete')
  assert answer(page, BASE).locator('.text').text_content() == ' It is a film that is worth a look 🎬'
  assert answer(page, 'reviews/prompt').locator('.text').text_content() == ' positive</s>'
  assert re.match(r'2 tokens\d+(\.\d)? tokens/s\d+ ms to the firstcomplete', answer(
    page, 'reviews/prompt').locator('.figures').text_content())
  assert [each['model'] for each in page.server.asked] == [BASE, 'reviews/prompt', 'headlines']
  assert page.server.asked[0] == {
    'model': BASE, 'prompt': 'It\'s a "test" — 100 %\nyes:', 'max_tokens': 64, 'temperature': 0, 'stream': True,
    'stream_options': {'include_usage': True}, 'logprobs': 5}


@browsers
def test_a_tokens_alternatives_are_shown_by_mouse_and_by_keyboard(opened):
  page = opened()
  choose(page, BASE)
  generate(page)
  wait_for(page, BASE, 'cut at the limit')
  tip = page.get_by_role('tooltip')
  tokens = answer(page, BASE).locator('.token')
  assert tokens.all_text_contents()[-2:] == [' ', '🎬']  # two tokens make one character
  tokens.nth(3).hover()
  assert tip.locator('li').all_text_contents() == ['␣or52.8 %', '␣another26.4 %', '␣film12.0 %']
  assert 'Probability 12.0 %, not the likeliest' in tip.text_content()
  page.mouse.move(0, 0)
  assert tip.is_hidden()
  tokens.first.focus()
  page.keyboard.press('ArrowRight')
  assert 'Probability 55.0 %' in tip.text_content()
  assert tokens.nth(1).get_attribute('aria-describedby') == 'tip'
  page.keyboard.press('End')
  assert tip.locator('p').all_text_contents() == ['Probability 20.0 %, not the likeliest', 'Probability 90.0 %']
  page.keyboard.press('Escape')
  assert tip.is_hidden()


@browsers
def test_stop_keeps_what_has_come(opened):
  page = opened(pause=0.2)
  choose(page, 'headlines')
  generate(page)
  answer(page, 'headlines').locator('.token').nth(1).wait_for()
  page.get_by_role('button', name='Stop').click()
  wait_for(page, 'headlines', 'stopped')
  assert answer(page, 'headlines').locator('.text').text_content().startswith('The plot')
  assert page.get_by_role('button', name='Stop').is_hidden()
  page.keyboard.press('Control+Enter')
  answer(page, 'headlines').locator('.token').first.wait_for()
  page.keyboard.press('Escape')
  wait_for(page, 'headlines', 'stopped')


@browsers
def test_a_stop_text_is_cut_out_of_its_tokens(opened):
  page = opened()
  choose(page, 'headlines')
  page.get_by_text('Settings').click()
  page.get_by_label('Stop texts').fill('st is so')
  generate(page)
  wait_for(page, 'headlines', 'complete')
  shown = answer(page, 'headlines').locator('.token').all_text_contents()
  assert shown == ['The', ' plot', ' is', ' thin,', ' but', ' the', ' ca', '</s>']


@browsers
def test_errors_are_in_the_servers_words(opened):
  page = opened()
  choose(page, 'busy', 'broken', 'reviews/prompt')
  generate(page)
  wait_for(page, 'reviews/prompt', 'complete')
  told = lambda name: answer(page, name).get_by_role('alert').text_content()
  assert told('busy') == '100 requests wait. Send the request again later. (in about 3 s)'
  assert told('broken') == 'The engine failed; the log of the server has the reason.'
  assert answer(page, 'broken').locator('.text').text_content() == ' half'
  page.server.close()
  page.get_by_role('button', name='Generate').click()
  answer(page, 'busy').get_by_text('The server cannot be reached').wait_for()


@browsers
def test_an_input_or_setting_that_cannot_be_used_is_named(opened):
  page = opened()
  page.get_by_role('button', name='Generate').click()
  assert page.locator('#problem').text_content() == 'Write an input first.'
  assert page.evaluate('document.activeElement.id') == 'input'
  page.get_by_text('Settings').click()
  page.get_by_label('Top-p').fill('2')
  generate(page)
  assert page.locator('#problem').text_content().startswith('Top-p: Value must be less than or equal to 1')
  page.get_by_label('Top-p').fill('0.9')
  page.get_by_label('Top-k').fill('7')
  page.get_by_label('Seed').fill('3')
  page.get_by_label('Stop texts').fill('END\n\\n')
  generate(page)
  wait_for(page, BASE, 'cut at the limit')
  settings = {'top_p': 0.9, 'top_k': 7, 'seed': 3, 'stop': ['END', '\n']}
  assert settings.items() <= page.server.asked[0].items() and page.locator('#problem').is_hidden()


@browsers
def test_a_key_is_asked_for_and_never_written_into_the_request(opened):
  page = opened(key='secret')
  page.get_by_text('The server needs an API key.').wait_for()
  for key, state in (('wrong', 'The server refuses this API key. Give another one.'), ('secret', f'{BASE}, ready')):
    page.get_by_label('API key').fill(key)
    page.keyboard.press('Enter')
    page.locator('#state', has_text=state).wait_for()
  choose(page, 'reviews/prompt')
  generate(page)
  wait_for(page, 'reviews/prompt', 'complete')
  request = page.locator('#request')
  assert '"Authorization: Bearer $API_KEY"' in request.text_content() and 'secret' not in request.text_content()
  page.get_by_label('Python').check()
  assert 'os.environ["API_KEY"]' in request.text_content() and 'secret' not in request.text_content()


@browsers
def test_a_server_that_still_loads_is_asked_again(opened):
  page = opened(loading=1)
  page.get_by_text('The model is being loaded.').wait_for()
  page.get_by_text(f'{BASE}, ready').wait_for()


@browsers
def test_a_chat_is_continued_with_an_answer(opened):
  page = opened()
  choose(page, 'headlines')
  page.get_by_label('Chat').check()
  page.get_by_label('Text of the message').fill('Hi!')
  page.get_by_role('button', name='Generate').click()
  wait_for(page, 'headlines', 'complete')
  page.get_by_role('button', name='Continue with this answer').click()
  page.keyboard.type('More')
  page.keyboard.press('Control+Enter')
  wait_for(page, 'headlines', 'complete')
  first, second = page.server.asked
  assert first['messages'] == [{'role': 'user', 'content': 'Hi!'}] and first['logprobs'] and first['top_logprobs'] == 5
  assert [each['role'] for each in second['messages']] == ['user', 'assistant', 'user']
  assert second['messages'][1]['content'].endswith('mind at all') and second['messages'][2]['content'] == 'More'
  assert opened(chat=False).get_by_label('Chat').is_hidden()


@browsers
@pytest.mark.parametrize('form', ['curl', 'Python'])
@pytest.mark.parametrize('mode', ['Text', 'Chat'])
def test_the_request_works_elsewhere(opened, form, mode):
  page = opened()
  page.get_by_label(mode, exact=True).check()
  if form == 'Python':
    pytest.importorskip('openai')
    page.get_by_label('Python').check()
  choose(page, 'headlines', BASE)
  text = 'It\'s a "test": $HOME \\n — 🎬\nyes:'
  page.get_by_label('Input' if mode == 'Text' else 'Text of the message', exact=True).fill(text)
  page.get_by_text('Settings').click()
  page.get_by_label('Top-k').fill('7')
  page.get_by_label('Prompt of the request').select_option(BASE)
  page.get_by_role('button', name='Copy').click()
  page.get_by_role('button', name='Copied').wait_for()
  copied = page.locator('#request').text_content()
  program = ['bash', '-c'] if form == 'curl' else [sys.executable, '-c']
  done = subprocess.run([*program, copied], capture_output=True, text=True, timeout=30)
  assert done.returncode == 0, done.stderr
  (asked,) = page.server.asked
  given = {'prompt': text} if mode == 'Text' else {'messages': [{'role': 'user', 'content': text}]}
  expected = {'model': BASE, **given, 'max_tokens': 64, 'temperature': 0, 'top_k': 7}
  assert {name: asked[name] for name in expected} == expected
  assert 'film' in done.stdout


@browsers
def test_details_tell_the_files_words_and_the_nearest_ones(opened):
  page = opened()
  details = page.get_by_role('button', name='Details of reviews/prompt')
  details.focus()
  page.keyboard.press('Enter')
  told = page.get_by_role('dialog')
  rows = dict(zip(told.locator('#facts dt').all_text_contents(), told.locator('#facts dd').all_text_contents(),
                  strict=True))
  assert rows == {'Task': 'reviews.jsonl', 'Method': 'prompt', 'Length': '20 vectors', 'Position': 'before',
                  'Step': '500', 'Metrics': 'loss 0.2197, accuracy 91.25', 'Trained for': BASE,
                  'Template': 'Review: {text}\nSentiment:', 'Path': 'runs/reviews/prompt'}
  told.locator('.word').first.wait_for()
  assert told.locator('tr').all_text_contents() == ['0␣Negative0.27negative0.27Negative0.26', '1␣wis0.32␣sapp0.31↵0.12']
  page.keyboard.press('Escape')
  assert told.is_hidden() and details.evaluate('each => each === document.activeElement')
  page.get_by_role('button', name='Details of reviews/prefix').click()
  told.get_by_text('they have no vectors among embedded tokens').wait_for()


@browsers
def test_prompts_are_found_and_chosen_by_keyboard(opened):
  page = opened(more=[HOSTILE, *(f'many/{i}' for i in range(1000))])
  page.get_by_label('Filter by name').focus()
  page.keyboard.type('accuracy reviews')
  assert page.locator('#list li').count() == 1
  page.get_by_label('Filter by name').fill('many 99')
  assert page.locator('#list .name').all_text_contents()[:2] == ['many/99', 'many/199']
  page.keyboard.press('Tab')
  page.keyboard.press('Space')
  assert page.locator('#answers h3').all_text_contents() == [BASE, 'reviews/prompt', 'many/99']
  assert box_of(page, 'many/199').is_disabled()  # three at most
  page.keyboard.press('Space')
  page.get_by_label('Filter by name').fill('img')
  page.locator('#list input').check()
  assert page.locator('#answers h3').all_text_contents()[-1] == HOSTILE and page.title() == 'Prompt playground'
  page.get_by_label('Filter by name').fill('nothing')
  page.get_by_text('No prompt matches “nothing”.').wait_for()


@browsers
def test_the_template_of_a_prompt_becomes_the_input(opened):
  page = opened()
  page.get_by_role('button', name='Use it').click()
  page.keyboard.type('dull')  # replaces the first column
  assert page.get_by_label('Input', exact=True).input_value() == 'Review: dull\nSentiment:'


@browsers
@pytest.mark.parametrize('width', [320, 700, 1300])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_every_width_and_colour_scheme_can_be_read(opened, width, scheme):
  page = opened(size=(width, 700))
  page.emulate_media(color_scheme=scheme)
  page.locator('#shown').evaluate('each => { each.open = true; }')
  choose(page, BASE, 'reviews/prompt', 'headlines')
  page.get_by_text('Settings').click()
  generate(page)
  wait_for(page, 'headlines', 'complete')
  assert page.evaluate('document.documentElement.scrollWidth') <= width
  assert page.evaluate(CONTRASTS) == []
  assert page.evaluate(NAMELESS) == []


# Texts whose contrast with their background is below 4.5 (WCAG AA), without those that are disabled.
CONTRASTS = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const linear = each => each <= .04045 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (color.startsWith('rgb(')) return numbers(color);
    }
    return [255, 255, 255];
  };
  const low = node => {
    const one = light(numbers(getComputedStyle(node).color)), other = light(behind(node));
    return (Math.max(one, other) + .05) / (Math.min(one, other) + .05) < 4.5;
  };
  return [...document.querySelectorAll('body *')]
    .filter(node => node.checkVisibility() && !node.closest('.full, script, .unseen, .skip'))
    .filter(node => [...node.childNodes].some(each => each.nodeType === 3 && each.data.trim()))
    .filter(low).map(node => node.outerHTML.slice(0, 90));
}"""
# Fields and buttons without a name for screen readers.
NAMELESS = """() => [...document.querySelectorAll('button, input, select, textarea')]
  .filter(node => !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim()
    || node.getAttribute('aria-labelledby'))).map(node => node.outerHTML)"""
